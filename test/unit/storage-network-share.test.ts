import { describe, expect, it } from 'vitest';
import { networkShareStorage } from '../../src/storage/network-share.ts';
import {
  isNetworkFileSystem,
  mountOf,
  mountPointByDevice,
  parseMountInfo,
} from '../../src/storage/network-share-mounts.ts';

const TEXT = [
  '22 27 0:21 / /proc rw,relatime - proc proc rw',
  '27 1 254:0 / / rw,relatime - ext4 /dev/vda rw',
  '30 27 8:1 / /var rw,relatime shared:1 - xfs /dev/sda1 rw',
  '31 30 0:41 / /var/backups/nas rw,relatime shared:7 master:2 - nfs4 10.0.0.1:/export rw,vers=4.2',
  '32 27 0:42 /sub /mnt/with\\040blank\\134 rw - cifs //server/share rw',
  '33 27 0:43 / /mnt/auto rw - autofs systemd-1 rw',
  '34 27 0:44 / /mnt/twice rw - autofs systemd-1 rw',
  '35 34 0:45 / /mnt/twice rw - smb3 //server/other rw',
  'not a mount',
  '36 27 0:46 / relative rw - nfs x rw',
  '37 27 0:46 / /no/type rw -',
  '',
].join('\n');

describe('the mounts of Linux', () => {
  const mounts = parseMountInfo(TEXT);
  const at = (path: string) => mountOf(path, mounts)?.fileSystem;

  it('are those of the text, and nothing that is no mount', () => {
    expect(mounts.map(({ id }) => id)).toEqual(['22', '27', '30', '31', '32', '33', '34', '35']);
    expect(parseMountInfo('')).toEqual([]);
    expect(mountOf('/anything', [])).toBeUndefined();
  });

  it.each([
    ['/', 'ext4'],
    ['/home/backups', 'ext4'],
    ['/var/backups', 'xfs'],
    ['/var/backups/nas', 'nfs4'],
    ['/var/backups/nas/a/b', 'nfs4'],
    ['/var/backups/nas2', 'xfs'],
    ['/variable', 'ext4'],
    ['/mnt/with blank\\', 'cifs'],
    ['/mnt/with blank\\/a', 'cifs'],
    ['/mnt/with\\040blank', 'ext4'],
    ['/mnt/auto/a', 'autofs'],
    ['/mnt/twice/a', 'smb3'],
  ])('%s lies on %s', (path, fileSystem) => {
    expect(at(path)).toBe(fileSystem);
  });

  it.each(['nfs', 'nfs4', 'cifs', 'smb3', 'ceph', '9p', 'fuse.sshfs', 'fuse.rclone'])(
    '%s is a network',
    (type) => {
      expect(isNetworkFileSystem(type)).toBe(true);
    },
  );

  it.each(['ext4', 'xfs', 'btrfs', 'tmpfs', 'overlay', 'autofs', 'fuseblk', 'nfsd', ''])(
    '%s is none',
    (type) => {
      expect(isNetworkFileSystem(type)).toBe(false);
    },
  );
});

describe('device numbers', () => {
  const chain = (...folders: readonly (readonly [string, bigint])[]) =>
    folders.map(([path, device]) => ({ path, device }));

  it('tell the lowest mount point', () => {
    const folders = chain(['/a/b/c', 3n], ['/a/b', 3n], ['/a', 2n], ['/', 1n]);
    expect(mountPointByDevice(folders)).toBe('/a/b');
    expect(mountPointByDevice(folders.slice(2))).toBe('/a');
  });

  it('tell none where all are those of the root', () => {
    expect(mountPointByDevice(chain(['/a/b', 1n], ['/a', 1n], ['/', 1n]))).toBeUndefined();
    expect(mountPointByDevice(chain(['/', 1n]))).toBeUndefined();
    expect(mountPointByDevice([])).toBeUndefined();
  });

  it('are told apart beyond 53 bits', () => {
    const large = 2n ** 60n;
    expect(mountPointByDevice(chain(['/a', large + 1n], ['/', large]))).toBe('/a');
  });
});

describe('the options', () => {
  it.each([{ path: '' }, { path: 'a\0b' }, { path: '/a', mountPoint: '' }])('%j are refused', (options) => {
    expect(() => networkShareStorage(options)).toThrow(
      expect.objectContaining({ code: 'CONFIGURATION_INVALID' }),
    );
  });
});
