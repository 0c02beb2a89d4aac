import type { Transferable } from '../../types/definition'
import { FST_BGT_INVALID_TASK_OPTION, FST_BGT_UNCLONABLE } from '../shared/errors'
import { ignoreRejection } from '../shared/promises'
import { received, textOf } from '../shared/show'
import type { Transfer } from './spec'

/** A payload that goes to a thread by structured clone: the copy that `add` made, and its transferable buffers. */
export class Snapshot {
  readonly value: unknown
  readonly transfer: readonly ArrayBuffer[]

  constructor (value: unknown, transfer: readonly ArrayBuffer[]) {
    this.value = value
    this.transfer = transfer
  }

  /** Whether the buffers have moved to a thread, and are empty here. */
  get moved (): boolean {
    return this.transfer.some(({ byteLength }) => byteLength === 0)
  }
}

/**
 * Copies a payload, and moves the buffers that `transfer` returns into the copy: the caller's buffers are empty afterwards.
 * @throws FST_BGT_UNCLONABLE, before any buffer has moved; FST_BGT_INVALID_TASK_OPTION
 */
export function takeSnapshot (task: string, payload: unknown, transfer: Transfer | null): Snapshot {
  const buffers = transfer === null ? [] : buffersOf(transfer(payload))
  try {
    // One clone for both: `buffers` then holds the buffers of the copied payload.
    const copy = structuredClone({ payload, buffers }, { transfer: buffers })
    return new Snapshot(copy.payload, copy.buffers)
  } catch (cause) {
    ignoreRejection(payload)
    throw new FST_BGT_UNCLONABLE(`The payload of the background task '${task}'`, `${received(payload)} (${textOf(cause)})`, { cause })
  }
}

function buffersOf (transfer: unknown): ArrayBuffer[] {
  if (!Array.isArray(transfer) || !transfer.every(isTransferable)) {
    throw new FST_BGT_INVALID_TASK_OPTION('transfer', 'a function that returns an array of ArrayBuffers, Buffers or typed arrays', received(transfer))
  }
  const buffers = new Set<ArrayBuffer>()
  for (const item of transfer as Transferable[]) {
    const buffer = ArrayBuffer.isView(item) ? item.buffer : item
    // Copy a view of a part, such as a small Buffer of Node's pool: other code uses the rest. Shared memory stays shared.
    // Do not move an empty buffer: it may have been moved before, and the clone throws the right error for that.
    if (item.byteLength !== 0 && item.byteLength === buffer.byteLength && buffer instanceof ArrayBuffer) buffers.add(buffer)
  }
  return [...buffers]
}

function isTransferable (item: unknown): item is Transferable {
  return ArrayBuffer.isView(item) || item instanceof ArrayBuffer || item instanceof SharedArrayBuffer
}
