/** A line of /proc/self/mountinfo (proc_pid_mountinfo(5)), as far as it matters. */
export interface Mount {
  /** Differs from that of every other mount that is there at the time. */
  readonly id: string;
  readonly mountPoint: string;
  readonly fileSystem: string;
}

/** A folder and the number of the device that it lies on. */
export interface FolderDevice {
  readonly path: string;
  readonly device: bigint;
}

/** What Linux calls file systems that lie on other machines; those in user space are `fuse.` and a name. */
const NETWORK_FILE_SYSTEMS: ReadonlySet<string> = new Set([
  '9p',
  'acfs',
  'afs',
  'beegfs',
  'ceph',
  'cifs',
  'coda',
  'davfs',
  'gfs2',
  'glusterfs',
  'gpfs',
  'lustre',
  'ncpfs',
  'nfs',
  'nfs4',
  'ocfs2',
  'orangefs',
  'panfs',
  'prl_fs',
  'smb3',
  'smbfs',
  'vboxsf',
  'virtiofs',
  'vmhgfs',
]);

export function isNetworkFileSystem(fileSystem: string): boolean {
  return NETWORK_FILE_SYSTEMS.has(fileSystem) || fileSystem.startsWith('fuse.');
}

/** The mounts that a mountinfo text lists, in its order. Lines that are none are left out. */
export function parseMountInfo(text: string): readonly Mount[] {
  return text.split('\n').flatMap((line) => {
    const fields = line.split(' ');
    const [id, mountPoint] = [fields[0], fields[4]];
    // Optional fields end with a hyphen; the type follows.
    const fileSystem = fields[fields.indexOf('-', 6) + 1];
    if (!id || !mountPoint?.startsWith('/') || !fields.includes('-', 6) || !fileSystem) return [];
    return [{ id, mountPoint: decodeOctal(mountPoint), fileSystem }];
  });
}

/** The mount that an absolute path without links lies on: the deepest, and of several on one point the last. */
export function mountOf(path: string, mounts: readonly Mount[]): Mount | undefined {
  let found: Mount | undefined;
  for (const mount of mounts) {
    const { mountPoint } = mount;
    const above = mountPoint === '/' ? '/' : `${mountPoint}/`;
    if (path !== mountPoint && !path.startsWith(above)) continue;
    if (found === undefined || mountPoint.length >= found.mountPoint.length) found = mount;
  }
  return found;
}

/**
 * For systems without mountinfo. `chain` is a folder and those above it, up to the root of the system: the first
 * whose device is not that of its parent is where a file system is mounted. Undefined: all lie on the root's.
 */
export function mountPointByDevice(chain: readonly FolderDevice[]): string | undefined {
  return chain.find(({ device }, n) => {
    const parent = chain[n + 1];
    return parent !== undefined && parent.device !== device;
  })?.path;
}

/** Blanks, tabs, line ends and backslashes are written as three octal digits. */
function decodeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
