/** The model in the head of the panel, parsed from `unknown`. */

import {
  ProtocolError,
  moneyOrNull,
  number,
  numberOrNull,
  object,
  text,
  textOrNull,
  word
} from './fields';
import type { Bound } from './row';
import { BOUNDS } from './row';

/** The GPU that the model is on, as NVML told of it at `readAt`. Memory in bytes. */
export interface GpuState {
  readonly label: string;
  readonly name: string;
  readonly readAt: string;
  /** The share of the last moments in which it computed, 0 to 1. */
  readonly busy: number | null;
  readonly powerW: number | null;
  readonly powerLimitW: number | null;
  readonly totalBytes: number;
  readonly usedBytes: number;
  /** What this kernel holds; null where torch does not count it. The rest of what is used is CUDA's own and others'. */
  readonly memory: {
    readonly weightsBytes: number;
    readonly cacheBytes: number;
    readonly reserveBytes: number;
  } | null;
  /** The energy of the notebook's runs; null where none has any. */
  readonly energyJ: number | null;
  readonly isEnergyEstimated: boolean;
  readonly energyBound: Bound;
}

/** How the model stands at its shared engine, as that said at `readAt`. Null is what it does not say. */
export interface SharedState {
  readonly readAt: string;
  readonly state: string;
  /** Requests at the whole engine. */
  readonly running: number | null;
  readonly waiting: number | null;
  /** How many requests of which user are at this model; those of keys without a user under an empty name. */
  readonly users: readonly (readonly [string, number])[];
  readonly key: string | null;
  readonly team: string | null;
  /** The key's own budget; null is no cap. */
  readonly capUsd: string | null;
  readonly leftUsd: string | null;
  readonly capTokens: number | null;
  readonly leftTokens: number | null;
}

export interface ModelState {
  readonly name: string;
  readonly engine: string;
  readonly device: string | null;
  readonly dtype: string | null;
  readonly quant: string | null;
  readonly state: string;
  readonly detail: string | null;
  readonly progress: number | null;
  /** A problem with the model, in one line; null if there is none. */
  readonly notice: string | null;
  /** Null where it is on none that can be read. */
  readonly gpu: GpuState | null;
  /** Null where it is at none, or nothing was heard of that yet. */
  readonly shared: SharedState | null;
}

/** Parse a model. Raises ProtocolError. */
export function parseModel(data: unknown): ModelState {
  const model = object(data, 'model');
  return {
    name: text(model, 'name'),
    engine: text(model, 'engine'),
    device: textOrNull(model, 'device'),
    dtype: textOrNull(model, 'dtype'),
    quant: textOrNull(model, 'quant'),
    state: text(model, 'state'),
    detail: textOrNull(model, 'detail'),
    progress: numberOrNull(model, 'progress'),
    // Kernels of earlier versions have none.
    notice: 'notice' in model ? textOrNull(model, 'notice') : null,
    gpu: readable(model.gpu, gpuOf),
    shared: readable(model.shared, sharedOf)
  };
}

/** What cannot be read is left out: a newer kernel may tell of other things. */
function readable<T>(data: unknown, parse: (data: unknown) => T): T | null {
  try {
    return data === undefined ? null : parse(data);
  } catch (error) {
    if (error instanceof ProtocolError) {
      return null;
    }
    throw error;
  }
}

function gpuOf(data: unknown): GpuState {
  const gpu = object(data, 'gpu');
  const held = gpu.memory === null ? null : object(gpu.memory, 'memory');
  return {
    label: text(gpu, 'label'),
    name: text(gpu, 'name'),
    readAt: text(gpu, 'read_at'),
    busy: numberOrNull(gpu, 'busy'),
    powerW: numberOrNull(gpu, 'power_w'),
    powerLimitW: numberOrNull(gpu, 'power_limit_w'),
    totalBytes: number(gpu, 'total_bytes'),
    usedBytes: number(gpu, 'used_bytes'),
    memory: held && {
      weightsBytes: number(held, 'weights_bytes'),
      cacheBytes: number(held, 'cache_bytes'),
      reserveBytes: number(held, 'reserve_bytes')
    },
    energyJ: numberOrNull(gpu, 'energy_j'),
    isEnergyEstimated: gpu.energy_estimated === true,
    energyBound: word(gpu, 'energy_bound', BOUNDS)
  };
}

function sharedOf(data: unknown): SharedState {
  const shared = object(data, 'shared');
  const users = object(shared.users, 'users');
  return {
    readAt: text(shared, 'read_at'),
    state: text(shared, 'state'),
    running: numberOrNull(shared, 'running'),
    waiting: numberOrNull(shared, 'waiting'),
    users: Object.keys(users).map(name => [name, number(users, name)]),
    key: textOrNull(shared, 'key'),
    team: textOrNull(shared, 'team'),
    capUsd: moneyOrNull(shared, 'cap_usd'),
    leftUsd: moneyOrNull(shared, 'left_usd'),
    capTokens: numberOrNull(shared, 'cap_tokens'),
    leftTokens: numberOrNull(shared, 'left_tokens')
  };
}
