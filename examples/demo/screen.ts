/** Where a long piece of work stands. */
export interface BarState {
  /** What is going on; another one begins a new bar. */
  readonly label: string;
  /** 0 to 100. */
  readonly percentage: number;
  /** Table or entity, rows, rate, time left: shown behind the bar. */
  readonly details: readonly string[];
}

export interface Bar {
  update(state: BarState): void;
  /** Fills the bar that is open and leaves it standing. */
  done(details: readonly string[]): void;
}

/** What the demo prints with. */
export interface Screen {
  heading(text: string): void;
  line(text?: string): void;
  /** Columns as wide as their widest cell; those that hold only numbers to the right. */
  table(head: readonly string[], rows: readonly (readonly string[])[]): void;
  bar(): Bar;
}

const BAR_CELLS = 24;
const LABEL_WIDTH = 20;
/** Without a terminal a bar is a line for each label, and one more this often. */
const PLAIN_LINE_MS = 2_000;

/** On a terminal bars move in place; elsewhere they are plain lines, so that a log stays readable. */
export function createScreen(output: NodeJS.WriteStream): Screen {
  const line = (text = ''): void => void output.write(`${text}\n`);
  let headings = 0;
  return {
    line,
    heading(text) {
      headings += 1;
      line(`\n${headings}. ${text}`);
    },
    table(head, rows) {
      const all = [head, ...rows];
      const widths = head.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
      const right = head.map((_, column) => rows.every((row) => /^[\d.,×%-]*$/.test(row[column] ?? '')));
      const format = (row: readonly string[]): string =>
        row
          .map((cell, i) => (right[i] === true ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
          .join('  ')
          .trimEnd();
      if (head.some((cell) => cell !== '')) {
        line(`   ${format(head)}`);
        line(`   ${widths.map((width) => '-'.repeat(width)).join('  ')}`);
      }
      for (const row of rows) line(`   ${format(row)}`);
    },
    bar: () => (output.isTTY ? movingBar(output) : plainBar(line)),
  };
}

function movingBar(output: NodeJS.WriteStream): Bar {
  let open: BarState | undefined;
  const draw = (state: BarState): void => {
    const text = describe(state).slice(0, (output.columns || 100) - 1);
    output.write(`\r\u001b[2K${text}`);
  };
  return {
    update(state) {
      if (open !== undefined && open.label !== state.label) {
        draw({ ...open, percentage: state.percentage });
        output.write('\n');
      }
      open = state;
      draw(state);
    },
    done(details) {
      draw({ label: 'done', percentage: 100, details });
      output.write('\n');
      open = undefined;
    },
  };
}

function plainBar(line: (text: string) => void): Bar {
  let label = '';
  let printedAt = 0;
  return {
    update(state) {
      if (state.label === label && Date.now() - printedAt < PLAIN_LINE_MS) return;
      label = state.label;
      printedAt = Date.now();
      line(describe(state));
    },
    done: (details) => line(describe({ label: 'done', percentage: 100, details })),
  };
}

function describe({ label, percentage, details }: BarState): string {
  const filled = Math.round((Math.min(100, Math.max(0, percentage)) / 100) * BAR_CELLS);
  const cells = `${'#'.repeat(filled)}${'.'.repeat(BAR_CELLS - filled)}`;
  const shown = details.filter((detail) => detail !== '').join('  ');
  return `   ${label.padEnd(LABEL_WIDTH)} [${cells}] ${String(Math.floor(percentage)).padStart(3)} %  ${shown}`;
}

const numbers = new Intl.NumberFormat('en-US');

/** 1234567 as `1,234,567`. */
export const count = (value: number): string => numbers.format(value);

/** Bytes as megabytes of 10^6. */
export const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);

/** Milliseconds as seconds. */
export const seconds = (milliseconds: number): string => (milliseconds / 1000).toFixed(2);
