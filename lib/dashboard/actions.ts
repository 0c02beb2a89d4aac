import type { Runtime } from '../runtime'
import type { Monitor } from './monitor'
import type { Source } from './source'

/** What the page can do: for each task, what its place can do, be that this process or the backend. */
export class Actions {
  readonly #runtime: Runtime
  readonly #monitor: Monitor
  readonly #source: Source

  constructor (runtime: Runtime, monitor: Monitor, source: Source) {
    this.#runtime = runtime
    this.#monitor = monitor
    this.#source = source
  }

  async cancel (id: string): Promise<{ done: boolean }> {
    const task = this.#source.shown(id)
    const done = (task !== undefined && await task.cancel()) || (await this.#runtime.store?.cancel(id) ?? false)
    if (done) this.#source.forget(id)
    return { done }
  }

  async runAgain (id: string): Promise<{ done: boolean }> {
    const failure = this.#monitor.failures.get(id)
    if (failure !== undefined && !failure.delivered) {
      if (failure.whole) this.#monitor.runAgain(failure)
      return { done: failure.whole }
    }
    const done = await this.#runtime.store?.retry(id) ?? false
    if (done) {
      this.#monitor.forget(id)
      this.#source.forget(id)
    }
    return { done }
  }
}
