/** The GPU that the model is on: how busy it is, who holds its memory, and what it draws. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import {
  clockTime,
  gibibytes,
  joules,
  percent,
  visible,
  watts
} from './format';
import type { GpuState } from './protocol';

/** A holder of memory: the name of its colour, what it is called, and its bytes. */
type Share = readonly [name: string, label: string, bytes: number];

export function GpuSection(props: {
  gpu: GpuState;
  /** Whether the reading is renewed: it is while a prompt runs. */
  isLive: boolean;
  trans: TranslationBundle;
}): React.ReactElement {
  const { gpu, isLive, trans } = props;
  const shares = sharesOf(gpu, trans);
  const used = trans.__(
    '%1 of %2 GiB',
    gibibytes(gpu.usedBytes),
    gibibytes(gpu.totalBytes)
  );
  const parts = shares.map(
    ([, label, bytes]) => `${label} ${gibibytes(bytes)} GiB`
  );
  return (
    <div
      className="tm-Gpu"
      role="group"
      aria-label={trans.__('GPU')}
      data-read-at={gpu.readAt}
    >
      <span title={visible(gpu.name)}>
        {trans.__('GPU %1', visible(gpu.label))}
        {gpu.busy !== null && (
          <span
            data-field="busy"
            data-value={gpu.busy}
          >{` · ${percent(gpu.busy)}`}</span>
        )}
      </span>
      <span className="tm-GpuPower">
        {gpu.powerW !== null && (
          <span data-field="power" data-value={gpu.powerW}>
            {gpu.powerLimitW === null
              ? watts(gpu.powerW)
              : trans.__('%1 of %2', watts(gpu.powerW), watts(gpu.powerLimitW))}
          </span>
        )}
        {gpu.energyJ !== null && (
          <span
            data-field="energy"
            data-value={gpu.energyJ}
            title={trans.__("The energy of this notebook's runs")}
          >
            {joules(gpu.energyJ, gpu.isEnergyEstimated, gpu.energyBound)}
          </span>
        )}
        {!isLive && (
          <span data-field="age" title={trans.__('Read while a prompt runs')}>
            {trans.__('as of %1', clockTime(gpu.readAt))}
          </span>
        )}
      </span>
      <div
        className="tm-Memory"
        role="img"
        aria-label={`${trans.__('Memory')}: ${[used, ...parts].join(', ')}`}
      >
        {shares.map(([name, , bytes]) => (
          <div
            key={name}
            data-share={name}
            style={{ width: `${(100 * bytes) / gpu.totalBytes}%` }}
          />
        ))}
      </div>
      <span data-field="memory" data-value={gpu.usedBytes}>
        {used}
      </span>
      {gpu.memory !== null && (
        <ul className="tm-MemoryLegend" aria-hidden="true">
          {shares.map(([name, label, bytes]) => (
            <li key={name} data-share={name}>
              {label} {gibibytes(bytes)}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

/** Who holds the memory that is used; together all of it. */
function sharesOf(gpu: GpuState, trans: TranslationBundle): Share[] {
  const { memory, usedBytes } = gpu;
  if (memory === null) {
    return [['others', trans.__('used'), usedBytes]];
  }
  const { weightsBytes, cacheBytes, reserveBytes } = memory;
  const others = usedBytes - weightsBytes - cacheBytes - reserveBytes;
  return [
    ['weights', trans.__('weights'), weightsBytes],
    ['cache', trans.__('KV cache'), cacheBytes],
    ['reserve', trans.__('reserve'), reserveBytes],
    ['others', trans.__('others'), Math.max(0, others)]
  ];
}
