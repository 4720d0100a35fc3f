import { ERROR_CODES } from '../../src/types/errors.ts';

/** Where the page belongs, relative to the root. */
export const ERRORS_PAGE = 'docs/errors.md';

/** The text of docs/errors.md. */
export function errorsPage(): string {
  const sections = Object.entries(ERROR_CODES).map(
    ([code, { happened, remedy, retryable }]) => `## ${code}

${happened}

**What to do:** ${remedy}

**Worth repeating unchanged:** ${retryable ? 'yes' : 'no'}
`,
  );
  return `<!-- Made from src/types/errors.ts by \`node scripts/docs.ts --write\`. Change it there. -->

# Error codes

Everything that the library throws is a \`DataProtectionError\` or a subclass of it. \`code\` is one of the names below
and never renamed. \`message\` is safe to log and to show: it holds names, ids and codes, never a row's content, a key or
a credential. \`cause\` may hold more: do not log it. \`retryable\` says whether the same call may succeed later without
a change of the input; a single error may differ from the default given here.

${sections.join('\n')}`;
}
