import type { SecondView } from '../../protocol'

/* What the plots draw: the last five minutes, second by second. */

export const SECONDS = 300

/** Seconds that are averaged for the rate. */
const LATELY = 5

export interface Series {
  /** Seconds since 1970. */
  at: number[]
  completed: number[]
  failed: number[]
  /** `null` where nothing began: there is no mean of nothing. */
  mean: Array<number | null>
  longest: number[]
}

/** A line along the ground says nothing, and hides the others: it is left out between two zeros. */
export function offGround (values: number[]): Array<number | null> {
  return values.map((value, index) => value === 0 && (values[index - 1] ?? 0) === 0 && (values[index + 1] ?? 0) === 0 ? null : value)
}

export class Seconds {
  readonly #seconds = new Map<number, SecondView>()

  /** @param full whether they are all there are */
  add (seconds: SecondView[], now: number, full: boolean): void {
    if (full) this.#seconds.clear()
    for (const second of seconds) this.#seconds.set(second.at, second)
    const first = Math.floor(now / 1_000) - SECONDS
    for (const at of this.#seconds.keys()) if (at < first) this.#seconds.delete(at)
  }

  series (now: number): Series {
    const end = Math.floor(now / 1_000) - 1
    const at = Array.from({ length: SECONDS }, (_, index) => end - SECONDS + 1 + index)
    const of = <Value>(get: (second: SecondView) => Value, none: Value): Value[] => at.map(second => {
      const known = this.#seconds.get(second)
      return known === undefined ? none : get(known)
    })
    return {
      at,
      completed: of(second => second.completed, 0),
      failed: of(second => second.failed, 0),
      mean: of<number | null>(second => second.mean, null),
      longest: of(second => second.longest, 0)
    }
  }

  /** Completed tasks per second, lately. */
  rate (now: number): number {
    const last = this.series(now).completed.slice(-LATELY)
    return last.reduce((sum, completed) => sum + completed, 0) / LATELY
  }
}
