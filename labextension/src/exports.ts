/** The rows that are shown, as files. Pure. */

import type { CellRow } from './cells';

export type Format = 'csv' | 'jsonl';

/**
 * The rows as CSV or as JSON lines, under the names that the ledger's export uses; money is text, as it came. A run
 * that a copied cell shows too is there once, so that a column can be added up.
 */
export function exported(rows: readonly CellRow[], format: Format): string {
  const runs = new Map<string, CellRow>();
  for (const shown of rows) {
    if (!runs.has(shown.row.runId)) {
      runs.set(shown.row.runId, shown);
    }
  }
  const records = [...runs.values()].map(recordOf);
  if (format === 'jsonl') {
    return records.map(record => `${JSON.stringify(record)}\n`).join('');
  }
  const names = Object.keys(records[0] ?? {});
  const lines = records.map(record => Object.values(record).map(field));
  return [names, ...lines].map(line => `${line.join(',')}\n`).join('');
}

function recordOf(
  shown: CellRow
): Record<string, string | number | boolean | null> {
  const { row } = shown;
  return {
    cell: shown.label,
    cell_id: shown.cellId,
    run_id: row.runId,
    status: row.status,
    model: row.model,
    started_at: row.startedAt,
    input_tokens: row.inputTokens,
    input_source: row.inputSource,
    output_tokens: row.outputTokens,
    output_source: row.outputSource,
    cost_usd: row.costUsd,
    cost_source: row.costSource,
    cost_bound: row.costBound,
    saved_usd: row.savedUsd,
    ttft_s: row.ttftS,
    itl_mean_s: row.itlMeanS,
    latency_s: row.latencyS,
    finish_reason: row.finishReason,
    error: row.error,
    outdated: shown.isOutdated
  };
}

/** Offer a text as a file. */
export function download(name: string, text: string): void {
  const link = document.createElement('a');
  link.download = name;
  link.href = URL.createObjectURL(new Blob([text], { type: 'text/plain' }));
  link.click();
  URL.revokeObjectURL(link.href);
}

/** A field of a CSV: a spreadsheet must not take a text for a formula. */
function field(value: string | number | boolean | null): string {
  if (typeof value !== 'string') {
    return value === null ? '' : String(value);
  }
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}
