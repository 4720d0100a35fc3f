import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';

/** A program that tests need, and the package that brings it to Debian and its kin. */
export interface DebianProgram {
  /** Any of these does. */
  readonly names: readonly string[];
  readonly package: string;
  /** The service of the package, which is neither started nor enabled. */
  readonly service: string;
  /** For where nothing can be installed. */
  readonly otherwise: string;
}

export const REDIS: DebianProgram = {
  names: ['redis-server', 'valkey-server'],
  package: 'redis-server',
  service: 'redis-server',
  otherwise: 'macOS: brew install redis; or set TEST_REDIS_URL, which does for most',
};

export const SSHD: DebianProgram = {
  names: ['sshd'],
  package: 'openssh-server',
  service: 'ssh',
  otherwise: 'macOS has it',
};

const APT = '/usr/bin/apt-get';

/**
 * Under a lock that the kernel lifts, since the files of a run are tested side by side. A policy of the machine that
 * forbids services stays as it is, and one that allows them is not replaced: then nothing is installed. What the
 * package would have started it would also start with the machine: that is switched off as well.
 */
const INSTALL = `
exec 9</var/lib/dpkg
flock 9
policy=/usr/sbin/policy-rc.d
if (set -C; printf '#!/bin/sh\\nexit 101\\n' >"$policy") 2>/dev/null; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  chmod 755 "$policy"
else
  "$policy" "$2" start && allowed=0 || allowed=$?
  if [ "$allowed" -ne 101 ]; then
    echo "$policy allows $2 to start" >&2
    exit 1
  fi
fi
set -e
export DEBIAN_FRONTEND=noninteractive
apt="${APT} -q -y -o DPkg::Lock::Timeout=120 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30"
$apt update
$apt install --no-install-recommends "$1"
update-rc.d "$2" disable
`;

/** The path of the program; where it is missing, Debian's package is installed, if that is possible, and stays. */
export async function requireProgram(program: DebianProgram): Promise<string> {
  const there = pathOf(program);
  if (there !== undefined) return there;
  const how = `Install it (Debian: apt-get install ${program.package}; ${program.otherwise}).`;
  if (process.getuid?.() !== 0 || !isExecutable(APT)) {
    throw new Error(`The tests need ${program.names.join(' or ')}. ${how}`);
  }
  console.log(
    `${program.names[0]}: installing Debian's package ${program.package}, which stays; its service is not started`,
  );
  await install(program).catch((error: unknown) => {
    throw new Error(`Could not install ${program.package}: ${error}. ${how}`);
  });
  const installed = pathOf(program);
  if (installed === undefined) {
    throw new Error(`${program.names[0]} is not there after the install of ${program.package}. ${how}`);
  }
  return installed;
}

/** Looks in /usr/sbin as well, which is on the PATH of administrators only. The path is absolute. */
export function pathOf({ names }: DebianProgram): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin'];
  return names
    .flatMap((name) => folders.filter(isAbsolute).map((folder) => join(folder, name)))
    .find(isExecutable);
}

function install(program: DebianProgram): Promise<void> {
  const script = ['-c', INSTALL, 'care-tests-install', program.package, program.service];
  return new Promise((resolve, reject) => {
    execFile('/bin/sh', script, { maxBuffer: 2 ** 24 }, (error, _, stderr) => {
      if (error === null) resolve();
      else reject(new Error(stderr.trim().slice(-2_000) || error.message));
    });
  });
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
