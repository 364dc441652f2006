/** Which of many rows are drawn: those in sight, some around them, and those that must stay. Pure. */

/** Rows `from` to `to`, the latter not included. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/** Until it is known what is in sight: as many as a panel may have room for. */
export const FIRST: Span = { from: 0, to: 30 };

/** What stands in a table below its head: a row, or the room of rows that are not drawn, with its height in pixels. */
export type Piece =
  | { readonly kind: 'row'; readonly index: number }
  | { readonly kind: 'gap'; readonly span: Span; readonly height: number };

/** What is drawn of `count` rows: those of a span and those that are `kept`, in their order, and gaps between them. */
export function pieces(
  count: number,
  { from, to }: Span,
  kept: readonly number[],
  height: (index: number) => number
): Piece[] {
  const drawn = new Set(kept.filter(index => index < count));
  for (let index = from; index < Math.min(to, count); index++) {
    drawn.add(index);
  }
  const found: Piece[] = [];
  let next = 0;
  for (const index of [...drawn].sort((a, b) => a - b)) {
    found.push(...gap({ from: next, to: index }, height));
    found.push({ kind: 'row', index });
    next = index + 1;
  }
  found.push(...gap({ from: next, to: count }, height));
  return found;
}

function gap(span: Span, height: (index: number) => number): Piece[] {
  return span.from < span.to
    ? [{ kind: 'gap', span, height: heightOf(span, height) }]
    : [];
}

function heightOf({ from, to }: Span, height: (index: number) => number) {
  let total = 0;
  for (let index = from; index < to; index++) {
    total += height(index);
  }
  return total;
}

/** A piece as it stands on the screen, in pixels. */
export interface Placed {
  readonly piece: Piece;
  readonly top: number;
  readonly bottom: number;
}

/** The rows of which some part is between `top` and `bottom`. None: the nearest one. */
export function inSight(
  placed: readonly Placed[],
  top: number,
  bottom: number,
  height: (index: number) => number
): Span {
  let from: number | null = null;
  let to = 0;
  const see = (index: number, rowTop: number, rowBottom: number) => {
    if (rowBottom > top && from === null) {
      from = index;
    }
    if (rowTop < bottom) {
      to = index + 1;
    }
  };
  for (const it of placed) {
    if (it.piece.kind === 'row') {
      see(it.piece.index, it.top, it.bottom);
    } else {
      let rowTop = it.top;
      for (let at = it.piece.span.from; at < it.piece.span.to; at++) {
        const rowBottom = rowTop + height(at);
        see(at, rowTop, rowBottom);
        rowTop = rowBottom;
      }
    }
  }
  const first = Math.min(from ?? to, Math.max(to - 1, 0));
  return { from: first, to: Math.max(to, first + 1) };
}
