/** The rows of a long table that are drawn, as a person scrolls and moves through it by keyboard. */

import * as React from 'react';

import type { Piece, Placed, Span } from './span';
import { FIRST, inSight, pieces } from './span';

/** Rows are drawn so far around what is in sight, in pixels, and drawn anew when a gap comes so near. */
const AROUND = 240;
const NEAR = 100;
/** The height of a row until one was drawn, in pixels. */
const USUAL = 28;
const PAGE = 10;
const LINE = 'tr[data-cell-id]';
const BUTTONS = ['.tm-Open', '.tm-Cell'] as const;

export interface Drawn {
  readonly table: React.RefObject<HTMLTableElement>;
  /** One for each table body, in their order. */
  readonly pieces: readonly Piece[];
  onFocus(event: React.FocusEvent<Element>): void;
  onKeyDown(event: React.KeyboardEvent<Element>): void;
}

/**
 * Of the rows with these ids, those in sight are drawn, those that are `kept`, and the one that has the focus.
 *
 * Each row is a table body whose first line has the id as `data-cell-id`. Up, Down, Page Up, Page Down, Home and End
 * lead from a button in that line to the button of the same class in another row.
 */
export function useDrawn(
  ids: readonly string[],
  kept: readonly number[]
): Drawn {
  const table = React.useRef<HTMLTableElement>(null);
  const [span, setSpan] = React.useState(FIRST);
  const [, drawAgain] = React.useReducer((times: number) => times + 1, 0);
  const heights = React.useRef(new Heights());
  const focused = React.useRef<string | null>(null);
  const wanted = React.useRef<{ id: string; button: string } | null>(null);

  const height = (index: number) => heights.current.of(ids[index]!);
  const at = focused.current === null ? -1 : ids.indexOf(focused.current);
  const { version } = heights.current;
  const drawn = React.useMemo(
    () => pieces(ids.length, span, at < 0 ? kept : [...kept, at], height),
    [ids, span, kept, at, version]
  );
  const latest = React.useRef({ drawn, ids });
  latest.current = { drawn, ids };

  // Where the gaps are: observed anew whenever they are others, which also tells how each of them stands.
  const gaps = React.useMemo(
    () =>
      drawn
        .map(it => (it.kind === 'gap' ? `${it.span.from}-${it.span.to}` : ''))
        .join(' '),
    [drawn]
  );
  React.useEffect(() => {
    const node = table.current;
    const bodies = [...(node?.tBodies ?? [])].filter(it => isGap(it));
    if (node === null || bodies.length === 0) {
      return;
    }
    const root = scroller(node);
    const look = () => {
      const { drawn, ids } = latest.current;
      const placed = [...node.tBodies].map((body, place) => {
        const { top, bottom } = body.getBoundingClientRect();
        return { piece: drawn[place]!, top, bottom };
      });
      heights.current.measure(placed, ids);
      const { top, bottom } = root?.getBoundingClientRect() ?? {
        top: 0,
        bottom: window.innerHeight
      };
      const seen = inSight(placed, top - AROUND, bottom + AROUND, index =>
        heights.current.of(ids[index]!)
      );
      setSpan(before => (isSame(before, seen) ? before : seen));
    };
    const observer = new IntersectionObserver(
      entries => {
        if (entries.some(it => it.isIntersecting)) {
          look();
        }
      },
      { root, rootMargin: `${NEAR}px 0px` }
    );
    bodies.forEach(body => observer.observe(body));
    return () => observer.disconnect();
  }, [gaps, span]);

  React.useEffect(() => {
    if (wanted.current !== null) {
      const { id, button } = wanted.current;
      wanted.current = null;
      rowOf(table.current, id)?.querySelector<HTMLElement>(button)?.focus();
    }
  });

  return {
    table,
    pieces: drawn,
    onFocus: event => {
      focused.current = idOf(event.target);
    },
    onKeyDown: event => {
      const pressed = event.target as Element;
      const button = BUTTONS.find(it => pressed.matches(it));
      const from = ids.indexOf(idOf(pressed) ?? '');
      const to = target(event, from, ids.length);
      if (button !== undefined && from >= 0 && to !== null) {
        event.preventDefault();
        focused.current = ids[to]!;
        wanted.current = { id: focused.current, button };
        drawAgain();
      }
    }
  };
}

/** What is known of how high rows are, in pixels. */
class Heights {
  /** Another number whenever something else is known. */
  version = 0;

  of(id: string): number {
    return this._measured.get(id) ?? this._usual;
  }

  measure(placed: readonly Placed[], ids: readonly string[]): void {
    this.version++;
    let least = Infinity;
    for (const { piece, top, bottom } of placed) {
      if (piece.kind === 'row' && bottom > top) {
        this._measured.set(ids[piece.index]!, bottom - top);
        least = Math.min(least, bottom - top);
      }
    }
    // Most rows are of one line.
    this._usual = least === Infinity ? this._usual : least;
  }

  private readonly _measured = new Map<string, number>();
  private _usual = USUAL;
}

/** Where the keys lead that lead from row to row; null for other keys. */
function target(
  event: React.KeyboardEvent,
  from: number,
  count: number
): number | null {
  const steps: Record<string, number> = {
    ArrowDown: 1,
    ArrowUp: -1,
    PageDown: PAGE,
    PageUp: -PAGE,
    Home: -count,
    End: count
  };
  const step = steps[event.key];
  const isModified =
    event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
  return step === undefined || isModified
    ? null
    : Math.max(0, Math.min(count - 1, from + step));
}

function isGap(body: HTMLTableSectionElement): boolean {
  return body.querySelector(LINE) === null;
}

function idOf(inRow: Element): string | null {
  const line = inRow.closest('tbody')?.querySelector<HTMLElement>(LINE);
  return line?.dataset.cellId ?? null;
}

function rowOf(table: HTMLElement | null, id: string): Element | null {
  const lines = [...(table?.querySelectorAll<HTMLElement>(LINE) ?? [])];
  return lines.find(line => line.dataset.cellId === id) ?? null;
}

/** What scrolls a table; null is the page. */
function scroller(node: Element): Element | null {
  let around = node.parentElement;
  while (
    around !== null &&
    !/auto|scroll/.test(getComputedStyle(around).overflowY)
  ) {
    around = around.parentElement;
  }
  return around;
}

function isSame(one: Span, other: Span): boolean {
  return one.from === other.from && one.to === other.to;
}
