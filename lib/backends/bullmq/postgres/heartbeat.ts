import type { Worker } from 'bullmq'
import { clearInterval, setInterval } from '../../../shared/timers'

const INTERVAL_MS = 10_000

/**
 * Checks the connection on which a worker waits for notifications from Postgres, every 10 s: nothing else is sent on it, so nothing else
 * would notice that it does not answer. Made when the worker is ready, stopped by its close.
 */
export class Heartbeat {
  readonly #worker: Worker
  readonly #failed: (error: Error) => void
  readonly #timer: NodeJS.Timeout

  /** @param failed told that the connection did not answer, or could not be made */
  constructor (worker: Worker, failed: (error: Error) => void) {
    this.#worker = worker
    this.#failed = failed
    this.#timer = setInterval(() => this.#beat(), INTERVAL_MS)
  }

  #beat (): void {
    const backend = this.#worker.getBackend()
    // BullMQ's one public call that sends something on this connection: it sets the name that the connection has.
    backend.setName(backend.clientName()).catch(error => this.#failed(error as Error))
  }

  stop (): void {
    clearInterval(this.#timer)
  }
}
