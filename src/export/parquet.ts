import type { SchemaElement } from 'hyparquet-writer';
import { DataProtectionError } from '../types/errors.ts';
import type { Row } from './copy-text.ts';
import type { ExportChunk, ExportColumn } from './export.ts';
import type { ExportFile, FileFormat } from './file.ts';

/** A row group is closed at this size: characters of its values, and `VALUE_OVERHEAD` for each of them. */
const ROW_GROUP = 2 * 1024 * 1024;
/** What a value takes in memory besides its characters, in bytes. */
const VALUE_OVERHEAD = 32;

type ParquetModule = typeof import('hyparquet-writer');
type ParquetValue = string | number | bigint | boolean;

/** Apache Parquet, by `hyparquet-writer`, which is loaded here (`DEPENDENCY_MISSING`): see `docs/export.md`. */
export async function parquet(): Promise<FileFormat> {
  const module = await loadWriter();
  return {
    extension: 'parquet',
    emptyRows: 'NO',
    begin: (columns) => new ParquetFile(module, columns),
  };
}

class ParquetFile implements ExportFile {
  readonly #columns: readonly ParquetColumn[];
  readonly #bytes: InstanceType<ParquetModule['ByteWriter']>;
  readonly #writer: InstanceType<ParquetModule['ParquetWriter']>;
  #rows = 0;
  #size = 0;

  constructor({ ByteWriter, ParquetWriter }: ParquetModule, columns: readonly ExportColumn[]) {
    this.#columns = columns.map(({ name, type }) => ({ name, ...(KINDS[type] ?? STRING), data: [] }));
    this.#bytes = new ByteWriter();
    this.#writer = new ParquetWriter({
      writer: this.#bytes,
      schema: schemaOf(this.#columns),
      createdBy: '@care-commons/data-backup-offline',
    });
  }

  add(row: Row): ExportChunk | undefined {
    this.#columns.forEach(({ data, value }, index) => {
      const text = row[index] ?? null;
      data.push(text === null ? null : value(text));
      this.#size += VALUE_OVERHEAD + (text?.length ?? 0);
    });
    this.#rows += 1;
    return this.#size < ROW_GROUP ? undefined : this.#rowGroup();
  }

  end(): ExportChunk {
    const last = this.#rowGroup();
    this.#writer.finish();
    return { ...last, bytes: Buffer.concat([last.bytes, this.#take()]) };
  }

  #rowGroup(): ExportChunk {
    const rows = this.#rows;
    if (rows > 0) {
      const columnData = this.#columns.map(({ name, data, storedAs }) => ({
        name,
        data,
        ...storedAs,
        offsetIndex: false,
      }));
      this.#writer.write({ columnData, rowGroupSize: rows });
    }
    for (const { data } of this.#columns) data.length = 0;
    this.#rows = 0;
    this.#size = 0;
    return { bytes: this.#take(), rows };
  }

  /** A copy: the buffer is used again. The writer's `offset`, by which the file refers to its parts, goes on. */
  #take(): Buffer {
    const bytes = Buffer.from(this.#bytes.getBytes());
    this.#bytes.index = 0;
    return bytes;
  }
}

interface ParquetKind {
  readonly element: Omit<SchemaElement, 'name'>;
  /** How the writer is to store the values, where its own choice will not do. */
  readonly storedAs?: { readonly encoding: 'PLAIN' } | { readonly statistics: false };
  readonly value: (text: string) => ParquetValue;
}

interface ParquetColumn extends ParquetKind {
  readonly name: string;
  readonly data: (ParquetValue | null)[];
}

const INT32: ParquetKind = { element: { type: 'INT32' }, value: Number };
/** The writer's dictionaries do not tell -0 from 0. */
const DOUBLE: ParquetKind = { element: { type: 'DOUBLE' }, storedAs: { encoding: 'PLAIN' }, value: Number };
/** Least and greatest values are kept to the end of the file, and with each the text that it was cut from. */
const STRING: ParquetKind = {
  element: { type: 'BYTE_ARRAY', converted_type: 'UTF8' },
  storedAs: { statistics: false },
  value: (text) => text,
};

/** By type; what is not here is a STRING. */
const KINDS: Readonly<Record<ExportColumn['type'], ParquetKind>> = {
  boolean: { element: { type: 'BOOLEAN' }, value: (text) => text === 't' },
  smallint: INT32,
  integer: INT32,
  bigint: { element: { type: 'INT64' }, value: BigInt },
  real: DOUBLE,
  'double precision': DOUBLE,
};

const schemaOf = (columns: readonly ParquetColumn[]): SchemaElement[] => [
  { name: 'root', num_children: columns.length },
  ...columns.map(({ name, element }): SchemaElement => ({ name, ...element, repetition_type: 'OPTIONAL' })),
];

async function loadWriter(): Promise<ParquetModule> {
  try {
    return await import('hyparquet-writer');
  } catch (cause) {
    throw new DataProtectionError(
      'Exports to Parquet need a package: npm install hyparquet-writer',
      'DEPENDENCY_MISSING',
      { cause },
    );
  }
}
