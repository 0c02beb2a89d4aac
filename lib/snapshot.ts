import { FST_BGT_INVALID_TASK_OPTION, FST_BGT_UNCLONABLE } from './errors'
import { received } from './received'

/** What moves to a thread instead of being copied. */
export type Transferable = ArrayBufferLike | ArrayBufferView

/** See `ThreadDefinitionOptions.transfer`. */
export type Transfer = (payload: any) => readonly Transferable[]

/** A payload that goes to a thread as structured clone: the copy that `add` has taken, and what of it can be moved on. */
export class Snapshot {
  readonly value: unknown
  readonly transfer: readonly ArrayBuffer[]

  constructor (value: unknown, transfer: readonly ArrayBuffer[]) {
    this.value = value
    this.transfer = transfer
  }

  /** Whether what was to move has moved on: here it is empty then. */
  get moved (): boolean {
    return this.transfer.some(({ byteLength }) => byteLength === 0)
  }
}

/**
 * Copies a payload, and moves into the copy what `transfer` names: the caller's buffers are empty afterwards.
 * @throws FST_BGT_UNCLONABLE, and then nothing has moved; FST_BGT_INVALID_TASK_OPTION
 */
export function takeSnapshot (task: string, payload: unknown, transfer: Transfer | null): Snapshot {
  const buffers = transfer === null ? [] : buffersOf(transfer(payload))
  try {
    // In one clone, so that the buffers of the copy are known too.
    const copy = structuredClone({ payload, buffers }, { transfer: buffers })
    return new Snapshot(copy.payload, copy.buffers)
  } catch (cause) {
    throw new FST_BGT_UNCLONABLE(`The payload of the background task '${task}'`, `${received(payload)} (${(cause as Error).message})`, { cause })
  }
}

function buffersOf (transfer: unknown): ArrayBuffer[] {
  if (!Array.isArray(transfer) || !transfer.every(isTransferable)) {
    throw new FST_BGT_INVALID_TASK_OPTION('transfer', 'a function that returns an array of ArrayBuffers, Buffers or typed arrays', received(transfer))
  }
  const buffers = new Set<ArrayBuffer>()
  for (const item of transfer as Transferable[]) {
    const buffer = ArrayBuffer.isView(item) ? item.buffer : item
    // A part of a buffer, as Node cuts small ones out of its pool, is copied: others use the rest. What is shared stays so.
    // An empty one may have been moved before: the clone says so, where the move would say nothing, or something else.
    if (item.byteLength !== 0 && item.byteLength === buffer.byteLength && buffer instanceof ArrayBuffer) buffers.add(buffer)
  }
  return [...buffers]
}

function isTransferable (item: unknown): item is Transferable {
  return ArrayBuffer.isView(item) || item instanceof ArrayBuffer || item instanceof SharedArrayBuffer
}
