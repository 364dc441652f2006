/** What a kernel's messages are for: the readings, the draft, or who asked. No DOM. */

import type { Drafts } from './drafts';
import type { Readings } from './model';
import { ProtocolError, answerTo, parseMessage } from './protocol';

/** What a kernel answers whose tokmagic is older than a question, or does not take this one for one. */
const NOT_KNOWN = /(?:know|this) '(\w+)'/;

/** Who asks the kernel about one thing, beside the drafts. */
export interface Asker {
  /** The type of its questions, and of the answers. */
  readonly type: string;
  /** Take an answer in, which came on our own comm. Raises ProtocolError. */
  receive(data: unknown): void;
  /** The kernel does not know the question, or its answer cannot be read. */
  refuse(): void;
  /** The kernel knows the question, and could not answer it. */
  fail?(message: string): void;
  /** Another process, or another way to it. */
  reset(): void;
}

export class Inbox {
  /** Without `drafts` nobody writes here. */
  constructor(
    private readonly _readings: Readings,
    private readonly _askers: readonly Asker[],
    private readonly _drafts: Drafts | null = null
  ) {}

  /** Take in a message of ours. `own`: it answers what this very page asked. */
  receive(data: unknown, own: boolean): void {
    const asked = answerTo(data);
    if (asked !== null && !own) {
      return;
    }
    try {
      const asker = this._askers.find(it => it.type === asked);
      if (asker !== undefined) {
        asker.receive(data);
        return;
      }
      const message = parseMessage(data);
      if (message.type === 'draft') {
        this._drafts?.receive(message);
        return;
      }
      if (own && message.type === 'error' && this._refuse(message.message)) {
        return;
      }
      if (own && message.type === 'error' && message.to !== null) {
        const failed = this._askers.find(it => it.type === message.to);
        failed?.fail?.(message.message);
      }
      this._readings.apply(message);
      if (message.type === 'snapshot' && message.complete) {
        this._drafts?.refresh();
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) {
        throw error;
      }
      if (asked !== null) {
        this._refuse(`not known: this '${asked}'`);
        return;
      }
      this._readings.apply({
        type: 'error',
        to: null,
        message: `the kernel's tokmagic speaks another version (${error.message}); upgrade one of them`
      });
    }
  }

  /** Whether this says that a question is not known; who asked it is told. */
  private _refuse(error: string): boolean {
    const type = NOT_KNOWN.exec(error)?.[1];
    const asker = this._askers.find(it => it.type === type);
    asker?.refuse();
    if (type === 'draft') {
      this._drafts?.refuse();
    }
    return asker !== undefined || type === 'draft';
  }
}
