import { nextTurn, now } from './timers'

/** Up to this many items take a few milliseconds, and need no slices. */
export const AT_ONCE = 1_000

/** The longest time without a turn of the event loop. */
const SLICE_MS = 10

/** `map` for long lists: lets the event loop turn every `sliceMs`. */
export async function mapInSlices<Item, Result> (list: readonly Item[], map: (item: Item, index: number) => Result, sliceMs = SLICE_MS): Promise<Result[]> {
  const results: Result[] = []
  let end = now() + sliceMs
  for (const [index, item] of list.entries()) {
    if (now() >= end) {
      await nextTurn()
      end = now() + sliceMs
    }
    results.push(map(item, index))
  }
  return results
}

/** Concurrent calls to a server: more would fill the memory, and delay calls of other requests. */
const MAX_CALLS = 100

/**
 * Calls a server for each item of a list, {@link MAX_CALLS} at a time. Rejects with the first failure, and makes no further calls: a
 * server that is down would keep every group waiting.
 */
export async function eachInGroups<Item> (list: readonly Item[], action: (item: Item) => Promise<unknown>): Promise<void> {
  for (let from = 0; from < list.length; from += MAX_CALLS) await Promise.all(list.slice(from, from + MAX_CALLS).map(action))
}
