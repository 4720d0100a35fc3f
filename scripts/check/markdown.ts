/** A fenced block of a Markdown file. */
export interface CodeBlock {
  /** First word of the fence's info string, such as `ts`. */
  readonly language: string;
  /** The rest of the info string. */
  readonly info: string;
  /** Number of the line after the fence, from 1. */
  readonly line: number;
  readonly code: string;
}

interface Parts {
  readonly blocks: readonly CodeBlock[];
  /** The lines with those of fenced blocks emptied: prose by line number. */
  readonly prose: readonly string[];
}

/** Parts the fenced blocks of a Markdown text from its prose. */
export function splitMarkdown(markdown: string): Parts {
  const blocks: CodeBlock[] = [];
  const prose: string[] = [];
  let open: { fence: string; indent: number; language: string; info: string; line: number } | undefined;
  let code: string[] = [];
  for (const [index, line] of markdown.split('\n').entries()) {
    const [, indent = '', fence = '', info = ''] = /^(\s*)(`{3,}|~{3,})(.*)$/.exec(line) ?? [];
    const closes = open !== undefined && fence.startsWith(open.fence) && info.trim() === '';
    if (open === undefined && fence === '') {
      prose.push(line);
      continue;
    }
    prose.push('');
    if (open === undefined) {
      const [language = '', ...rest] = info.trim().split(/\s+/);
      open = { fence, indent: indent.length, language, info: rest.join(' '), line: index + 2 };
      code = [];
    } else if (closes) {
      blocks.push({ language: open.language, info: open.info, line: open.line, code: code.join('\n') });
      open = undefined;
    } else {
      code.push(line.slice(Math.min(open.indent, line.length - line.trimStart().length)));
    }
  }
  if (open !== undefined) throw new Error(`The code block in line ${open.line - 1} is never closed.`);
  return { blocks, prose };
}

/** Targets of inline links, images and link definitions, with their line from 1. */
export function linksOf(markdown: string): Array<{ target: string; line: number }> {
  return splitMarkdown(markdown).prose.flatMap((text, index) => {
    const plain = text.replaceAll(/`[^`]*`/g, (span) => ' '.repeat(span.length));
    const inline = [...plain.matchAll(/\]\(\s*<?([^\s)>]+)>?(?:\s+["'(][^)]*)?\)/g)];
    const defined = [...plain.matchAll(/^\s*\[[^\]]+\]:\s+<?([^\s>]+)/g)];
    return [...inline, ...defined].flatMap(([, target]) => (target ? [{ target, line: index + 1 }] : []));
  });
}

/** The fragments that GitHub gives to the headings, and explicit ids. */
export function anchorsOf(markdown: string): Set<string> {
  const anchors = new Set<string>();
  for (const line of splitMarkdown(markdown).prose) {
    for (const [, id] of line.matchAll(/\s(?:id|name)="([^"]+)"/g)) if (id) anchors.add(id);
    const [, heading] = /^#{1,6}\s+(.*?)\s*#*$/.exec(line) ?? [];
    if (heading === undefined) continue;
    const slug = heading
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\p{M}\s_-]/gu, '')
      .replaceAll(/\s/g, '-');
    let unique = slug;
    for (let n = 1; anchors.has(unique); n += 1) unique = `${slug}-${n}`;
    anchors.add(unique);
  }
  return anchors;
}
