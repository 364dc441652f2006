/** Fields out of `unknown`: each is there and of its type, or a ProtocolError tells which is not. */

/** What was received is not a message of this protocol. */
export class ProtocolError extends Error {}

export type Fields = Record<string, unknown>;

export function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function object(value: unknown, what: string): Fields {
  if (!isObject(value)) {
    throw new ProtocolError(`${what} is not an object`);
  }
  return value;
}

export function list(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) {
    throw new ProtocolError(`${what} is not a list`);
  }
  return value;
}

export function text(fields: Fields, name: string): string {
  const value = fields[name];
  if (typeof value !== 'string') {
    throw new ProtocolError(`${name} is not a string`);
  }
  return value;
}

export function textOrNull(fields: Fields, name: string): string | null {
  return fields[name] === null ? null : text(fields, name);
}

export function number(fields: Fields, name: string): number {
  const value = fields[name];
  if (typeof value !== 'number') {
    throw new ProtocolError(`${name} is not a number`);
  }
  return value;
}

export function numberOrNull(fields: Fields, name: string): number | null {
  return fields[name] === null ? null : number(fields, name);
}

export function money(fields: Fields, name: string): string {
  const value = text(fields, name);
  if (!/^-?\d+(\.\d+)?$/.test(value)) {
    throw new ProtocolError(`${name} is not a decimal`);
  }
  return value;
}

export function moneyOrNull(fields: Fields, name: string): string | null {
  return fields[name] === null ? null : money(fields, name);
}

export function word<T extends string>(
  fields: Fields,
  name: string,
  known: readonly T[]
): T {
  const value = text(fields, name);
  const found = known.find(it => it === value);
  if (found === undefined) {
    throw new ProtocolError(`${name} ${value} is unknown`);
  }
  return found;
}
