import { setTimeout as sleep } from 'node:timers/promises'

/** Milliseconds after which a wait of a test has failed. A busy machine is slow, but not as slow as that. */
export const NEVER_MS = 120_000

type Maybe<T> = T | undefined | null | false

/**
 * Resolves with the first value of `get` that is neither `undefined`, `null` nor `false`; rejects after {@link NEVER_MS}.
 * @param pause between two looks, by default 5 ms
 */
export async function until<T> (what: string, get: () => Promise<Maybe<T>> | Maybe<T>, pause: () => Promise<unknown> = () => sleep(5)): Promise<T> {
  const deadline = performance.now() + NEVER_MS
  for (;;) {
    const value = await get()
    if (value !== undefined && value !== null && value !== false) return value
    if (performance.now() > deadline) throw new Error(`still waiting for: ${what}`)
    await pause()
  }
}

/** Resolves as a promise does that is to end, but with no limit that a busy machine could meet; rejects after {@link NEVER_MS}. */
export async function ends<T> (what: string, promise: Promise<T>): Promise<T> {
  let timer
  const never = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`still waiting for: ${what}`)), NEVER_MS)
  })
  try {
    return await Promise.race([promise, never])
  } finally {
    clearTimeout(timer)
  }
}
