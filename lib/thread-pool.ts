import type { AsyncResource } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Piscina } from 'piscina'
import type { MessagePort } from 'node:worker_threads'
import type { Definition } from './define-task'
import { FST_BGT_MISSING_PACKAGE } from './errors'
import { ThreadChannel } from './thread-channel'
import type { ThreadLease } from './thread-lease'
import type { ThreadRequest } from './thread-messages'
import type { ResolvedThreadOptions } from './thread-options'
import type { Thrown } from './thrown'

/** Milliseconds that the application's close waits for threads that do not end, being in the middle of native code. */
const CLOSE_WAIT = 1_000

/** Has the pool end the thread of a lease. It takes an emitter for a signal, too, and one costs a tenth of the other. */
export class EndOfThread extends EventEmitter {
  aborted = false
  reason: unknown

  abort (reason: unknown): void {
    this.aborted = true
    this.reason = reason
    this.emit('abort')
  }
}

/** What is used of the pool's threads. */
interface PoolThread {
  readonly id: number
  /** How many requests it has. */
  readonly currentUsage: number
}

/** A lease on its way into the pool, with its first attempt. */
interface Entry {
  readonly lease: ThreadLease
  readonly request: ThreadRequest
  readonly transferList: (ArrayBuffer | MessagePort)[]
}

/** The threads themselves: piscina's, with a channel to each. */
export class ThreadPool {
  /** Nobody's: threads and channels outlive the attempt that they are made for, and would keep what its context holds. */
  readonly #context: AsyncResource
  readonly #pool: Piscina
  /** The key of what is for the main thread only, in what the pool is given to run. */
  readonly #entry: symbol
  /** By the thread's id. The pool may hear later than its channel that a thread has ended; until then it counts as one that was lent. */
  readonly #channels = new Map<number, ThreadChannel>()
  /** Those that no thread could be made for. The pool keeps them, and nobody has the promise of what becomes of them. */
  readonly #kept = new Set<ThreadRequest>()
  /** Threads that have been given one of them, to come back at once. */
  readonly #returning = new Set<PoolThread>()
  closed = false

  /**
   * @param onError a thread has failed with no task on it
   * @throws FST_BGT_MISSING_PACKAGE
   */
  constructor ({ max, idleTimeout, resourceLimits }: ResolvedThreadOptions, context: AsyncResource, onError: (error: Error) => void) {
    const { Piscina } = load()
    this.#context = context
    this.#entry = Piscina.queueOptionsSymbol
    this.#pool = new Piscina({
      filename: require.resolve('./thread-worker'),
      minThreads: 0,
      // One for `check`, which would else wait for tasks that were added before the application was ready, and that may take
      // any time. Tasks themselves get no more than `max`.
      maxThreads: max + 1,
      idleTimeout,
      resourceLimits,
      recordTiming: false,
      // Between two tasks a thread goes on with what they have left: keeping a connection alive, for one.
      atomics: 'disabled',
      // The only place that knows, before a task is sent, to which thread.
      loadBalancer: (task, threads) => {
        const thread = threads.find(({ currentUsage }) => currentUsage === 0)
        if (thread === undefined) return null
        const entry = (task as unknown as Record<symbol, Entry | null>)[this.#entry]
        if (entry != null) this.#assign(entry, thread, threads.map(({ id }) => id))
        return thread
      }
    })
    this.#pool.on('error', onError)
  }

  /**
   * Lends a thread, and runs an attempt on it. Resolves as soon as the thread is the pool's again. Rejects when it dies, or has
   * been ended.
   */
  run (lease: ThreadLease, request: ThreadRequest, transfer: readonly ArrayBuffer[], end: EndOfThread): Promise<void> {
    const entry: Entry = { lease, request, transferList: [...transfer] }
    const options = { signal: end, transferList: entry.transferList }
    try {
      return this.#context.runInAsyncScope(() => this.#pool.run(Object.assign(request, { [this.#entry]: entry }), options))
    } catch (error) {
      this.#kept.add(request)
      throw error
    }
  }

  /** @param threads those that the pool has, as far as it knows */
  #assign ({ lease, request, transferList }: Entry, thread: PoolThread, threads: number[]): void {
    if (lease.over) {
      request.over = true
      if (this.#kept.delete(request)) this.#returning.add(thread)
      return
    }
    for (const id of this.#channels.keys()) if (!threads.includes(id)) this.#channels.delete(id)
    const known = this.#channels.get(thread.id)
    const channel = known?.free === true ? known : new ThreadChannel()
    this.#channels.set(thread.id, channel)
    request.channel = channel.occupy(lease)
    if (request.channel !== null) transferList.push(request.channel.port)
    lease.assigned(channel, known !== undefined)
  }

  /** Loads the module of a task in a thread: `null`, or what is wrong with it. */
  check ({ name, file }: Pick<Definition, 'name' | 'file'>, signal: AbortSignal): Promise<Thrown | null> {
    return this.#pool.run({ name, file }, { name: 'check', signal })
  }

  /** Whether one that could not be run is still with the pool, or with a thread. */
  get #hasKept (): boolean {
    return this.#kept.size !== 0 || [...this.#returning].some(({ currentUsage }) => currentUsage !== 0)
  }

  /** Has a thread take those that could not be run: the pool would reject them, where nobody can hear of that. */
  async #takeBack (): Promise<void> {
    Promise.allSettled([this.#start()])
    for (const end = performance.now() + CLOSE_WAIT; this.#hasKept && performance.now() < end;) await nextTurn()
  }

  /** Sees to it that there is a thread which has nothing to do. */
  async #start (): Promise<void> {
    return this.#pool.run({ over: true })
  }

  /** Ends all threads, whatever they do. */
  async close (): Promise<void> {
    this.closed = true
    if (this.#hasKept) await this.#takeBack()
    let timer
    await Promise.race([this.#pool.destroy(), new Promise(resolve => { timer = setTimeout(resolve, CLOSE_WAIT) })])
    clearTimeout(timer)
  }
}

function load (): typeof import('piscina') {
  try {
    require.resolve('piscina')
  } catch (cause) {
    throw new FST_BGT_MISSING_PACKAGE('A task that runs on a thread', 'piscina', { cause })
  }
  return require('piscina')
}
