import pg from 'pg';

/** An SQL identifier, always quoted. */
export const quoteIdent = (name: string): string => pg.escapeIdentifier(name);

/** An SQL string literal; sessions pin `standard_conforming_strings`, and backslashes are written as E''. */
export const quoteLiteral = (value: string): string => pg.escapeLiteral(value);

export const qualified = (table: { readonly schema: string; readonly name: string }): string =>
  `${quoteIdent(table.schema)}.${quoteIdent(table.name)}`;
