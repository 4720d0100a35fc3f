import {
  createDataProtection,
  type DataProtection,
  type DataProtectionOptions,
  defineEntity,
} from '../../src/index.ts';
import { entities } from '../care-platform/entities.ts';

/** The library as the care platform would set it up. */
export function protect(options: Omit<DataProtectionOptions, 'entities'>): Promise<DataProtection> {
  return createDataProtection({ ...options, entities: entities.map((entity) => defineEntity(entity)) });
}
