/** What the generated rows are put together from. */

export const FIRST_NAMES = [
  'Ada',
  'José',
  'Mei',
  "D'Arcy",
  'Olu',
  'Zoë',
  'Bartholomew',
  'Nguyễn',
  'Ann Marie',
  'Søren',
  'Fatima',
  'Łukasz',
  'Ruth',
  'Иван',
  'Grace',
  'Li',
];
export const LAST_NAMES = [
  'Smith',
  "O'Neill",
  'García-López',
  'van der Berg',
  'Müller',
  'Okafor',
  'Kowalczyk',
  'St. John',
  'Tran',
  'Abd al-Rahman',
  'Jones',
  'Ó Súilleabháin',
  'Lee',
  'Nakamura',
  'Brown "Buddy"',
  'Wójcik',
];
export const STREETS = [
  'Ocean Drive',
  'Main St',
  'SW 8th Street',
  'Martin Luther King Jr. Blvd',
  'Rue "du Port"',
  'County Road 12\\B',
  'Elm Ave, Rear',
  'Peachtree (North)',
];
export const CITIES = [
  'Miami',
  'Coral Gables',
  'Austin',
  'San Antonio',
  'St. Petersburg',
  'Doña Ana',
  'Winston-Salem',
  "Coeur d'Alene",
];
export const STATES = ['FL', 'TX', 'NC', 'NM'];
export const DIAGNOSES = ['I10', 'E11.9', 'G30.1', 'F02.80', 'M15.0', 'I50.22', 'J44.9', 'Z74.1'];
export const LANGUAGES = ['en', 'es', 'ht', 'vi', 'pt-BR', 'zh-Hant'];

/** What breaks careless readers of COPY text, CSV or JSON; it is appended to some of the free texts. */
export const AWKWARD = [
  '\ttabs\there',
  '\nsecond line\n\nfourth line',
  '\r\nfrom Windows\r\n',
  '\n\\.\n',
  ' \\N',
  ' C:\\care\\notes\\new',
  ' "quoted", \'single\', `back`',
  ' 💊👩‍⚕️🏠',
  ' e\u0301 is not é',
  ' \u202bمرحبا\u202c',
  ' \u2028separated\u2029',
  ' \b\f\v\u0001',
  ' {1,"2",NULL}',
  ' $$ $1 %s',
  ' <b>&amp;</b>',
  '   ',
];

export const OBSERVATIONS = [
  'Client was awake and oriented on arrival, in good spirits and talkative.',
  'Client reported poor sleep and was slow to get out of bed this morning.',
  'Daughter was present and asked about the new medication schedule.',
  'Client complained of mild pain in the left knee after walking to the kitchen.',
  'Skin intact, no redness over bony prominences; heels floated on a pillow.',
  'Client refused the shower but accepted a full sponge bath in the bedroom.',
  'Walker used for all transfers, gait steady with one person standby assist.',
  'Home was tidy and warm, walkways clear, smoke detector light was green.',
  'Client was tearful while speaking about her late husband; listened and comforted.',
  'Edema 1+ in both ankles, compression stockings applied before breakfast.',
  'No falls reported since the last visit; bed alarm tested and working.',
  'Client confused about the day of the week, redirected twice without distress.',
  'Oxygen at two litres by nasal cannula, tubing checked, no shortness of breath.',
  'Blood sugar was taken by the client before the meal and logged on the chart.',
  'Appetite fair: ate half of the oatmeal and all of the fruit, drank two glasses of water.',
  'Client enjoyed a short walk to the mailbox and sat on the porch afterwards.',
];
export const ACTIONS = [
  'Assisted with bathing, oral care, dressing and grooming as planned.',
  'Prepared a low-sodium lunch and cleaned the kitchen afterwards.',
  'Reminded the client of the noon medication; she took it with water.',
  'Changed the bed linen, started laundry and took out the garbage.',
  'Did range-of-motion exercises for both arms, ten repetitions each.',
  'Drove the client to the pharmacy and back, receipt left on the table.',
  'Called the office about the broken shower chair, replacement requested.',
  'Emptied the catheter bag, 400 ml clear yellow urine recorded.',
  'Read the newspaper aloud and played two games of dominoes.',
  'Checked the refrigerator and discarded expired food with permission.',
  'Applied lotion to the lower legs and repositioned every two hours.',
  'Set out clothes for tomorrow and charged the emergency pendant.',
  'Helped with the telephone call to the clinic, appointment moved to Friday.',
  'Vacuumed the living room and mopped the bathroom floor.',
  'Escorted the client to physical therapy and took notes for the family.',
  'Weighed the client before breakfast and wrote the result on the chart.',
];
export const CLOSINGS = [
  'No change in condition; will continue the plan of care.',
  'Supervisor notified by telephone, awaiting a call back.',
  'Client safe in the recliner with the call button in reach.',
  'Family will be present until the evening shift arrives.',
  'Door locked on departure, key returned to the lock box.',
  'Next caregiver informed in the handover book.',
  'Recommend a nurse visit within the week.',
  'All tasks done; client had no further requests.',
];

export const VISIT_STATUSES = [
  'SCHEDULED',
  'IN PROGRESS',
  'COMPLETED',
  'MISSED',
  "CLIENT'S REFUSAL",
  'CANCELLED',
];
export const EVV_METHODS = ['GPS', 'TELEPHONY', 'FIXED "FOB"', 'MANUAL'];
