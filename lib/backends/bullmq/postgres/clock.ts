import { now } from '../../../shared/timers'
import { TIME_COLUMNS } from '../private'

/*
 * BullMQ on Postgres compares times that different machines have taken from their own clocks (6.7): a worker whose clock is ahead
 * takes jobs from live ones. Here all times in the tables are the server's: a statement's values are moved onto its clock, and
 * times in its rows back.
 */

/** Milliseconds after which the difference is measured again, while statements go on with the last one. */
const REMEASURE_MS = 10_000

/** Milliseconds by which this machine's clock may be set before statements wait for a new measurement. */
const MAX_JUMP_MS = 100

/** A measurement that takes longer is too uncertain to be used. */
const MAX_ROUND_TRIP_MS = 2_000

/** A larger number is a time, in ms of the epoch: no duration, limit or count is so large, and no time so early. */
const FIRST_TIME_MS = 1e12

/** The difference between the server's clock and this machine's. One for all connections of a backend. */
export class ServerClock {
  readonly #ask: () => Promise<number>
  #ahead = 0
  /** When the difference was measured: on this machine's clock, and on one that cannot be set. */
  #measured: { date: number, now: number } | null = null
  #measuring: Promise<void> | null = null

  /** @param ask resolves with the server's time, in ms of the epoch */
  constructor (ask: () => Promise<number>) {
    this.#ask = ask
  }

  /** Milliseconds by which the server's clock is ahead; 0 where the difference is too small to be measured. */
  async ahead (): Promise<number> {
    const passed = this.#measured === null ? Infinity : now() - this.#measured.now
    const jumped = this.#measured === null || Math.abs(Date.now() - this.#measured.date - passed) > MAX_JUMP_MS
    if (jumped || passed > REMEASURE_MS) {
      this.#measuring ??= this.#measure().finally(() => { this.#measuring = null })
      // The last difference is good enough while this machine's clock goes on as it did.
      if (jumped) await this.#measuring
    }
    return this.#ahead
  }

  async #measure (): Promise<void> {
    const begin = now()
    let time: number
    try {
      time = await this.#ask()
    } catch {
      // The statement that waits for this will not be answered either.
      return
    }
    const end = now()
    const uncertainty = (end - begin) / 2
    if (uncertainty > MAX_ROUND_TRIP_MS / 2) return
    const ahead = Math.round(time + uncertainty - Date.now())
    // `SERVER_TIME` is in whole ms.
    this.#ahead = Math.abs(ahead) <= uncertainty + 1 ? 0 : ahead
    this.#measured = { date: Date.now(), now: end }
  }
}

/** The server's time, in whole ms of the epoch. */
export const SERVER_TIME = 'SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint::text AS time'

/** Values of a statement with their times moved by so many ms. */
export function moveValues (values: readonly unknown[], byMs: number): readonly unknown[] {
  return byMs === 0 ? values : values.map(value => typeof value === 'number' && value > FIRST_TIME_MS ? value + byMs : value)
}

/** Moves the times in rows of BullMQ's tables by so many ms. */
export function moveRows (rows: Array<Record<string, unknown>>, byMs: number): void {
  if (byMs === 0) return
  for (const row of rows) {
    for (const column of TIME_COLUMNS) if (row[column] != null) row[column] = String(Number(row[column]) + byMs)
  }
}
