import type { AsyncResource } from 'node:async_hooks'
import { EventEmitter } from 'node:events'
import { existsSync } from 'node:fs'
import type { Piscina } from 'piscina'
import type { MessagePort } from 'node:worker_threads'
import type { ThreadSettings } from '../run/settings'
import { FST_BGT_BUNDLED, FST_BGT_MISSING_PACKAGE } from '../shared/errors'
import { clearTimeout, nextTurn, now, setTimeout } from '../shared/timers'
import type { Definition } from '../task/spec'
import { type ChannelUser, ThreadChannel } from './channel'
import type { ThreadRequest } from './messages'
import type { Thrown } from './thrown'

/** The longest wait, at the application's close, for threads that native code keeps from ending. */
const CLOSE_WAIT_MS = 1_000

/** Makes the pool terminate the thread of a lease. Piscina accepts an emitter as a signal, and it is cheaper than an `AbortSignal`. */
export class EndOfThread extends EventEmitter {
  aborted = false
  reason: unknown

  abort (reason: unknown): void {
    this.aborted = true
    this.reason = reason
    this.emit('abort')
  }
}

/** The members of a piscina worker that are used here. */
interface PoolThread {
  readonly id: number
  /** The number of its requests. */
  readonly currentUsage: number
}

/** The borrower of a thread: a lease. */
export interface ThreadBorrower extends ChannelUser {
  /** Whether the lease ended before the pool had a thread for it. */
  readonly over: boolean
  /** @param isUsed whether another attempt has run on the thread before */
  assigned (channel: ThreadChannel, isUsed: boolean): void
}

/** A lease that waits in the pool for a thread, with its first attempt. */
interface Entry {
  readonly lease: ThreadBorrower
  readonly request: ThreadRequest
  readonly transferList: (ArrayBuffer | MessagePort)[]
}

/** The threads themselves: a piscina pool, and a channel to each thread. Made at first use, closed with the application. */
export class ThreadPool {
  /** The registration's async context: threads and channels outlive an attempt, and would keep alive what its context holds. */
  readonly #context: AsyncResource
  readonly #tasks: ReadonlyMap<string, boolean>
  readonly #pool: Piscina
  /** Key, in a request, of the entry that stays on the main thread. */
  readonly #entry: symbol
  /**
   * By thread id; `null` once the thread has ended. A channel learns of that before the pool does: until then the thread counts as
   * used.
   */
  readonly #channels = new Map<number, ThreadChannel | null>()
  /** Requests that piscina could make no thread for: it keeps them, and their promises are out of reach. */
  readonly #stranded = new Set<ThreadRequest>()
  /** Threads that were given a stranded request, from which they return at once. */
  readonly #returning = new Set<PoolThread>()
  closed = false

  /**
   * @param tasks the tasks that a handler on a thread may add, see `ThreadChannelEnd`
   * @param onError called when a thread fails with no task on it
   * @throws FST_BGT_BUNDLED, FST_BGT_MISSING_PACKAGE
   */
  constructor ({ max, idleTimeout, resourceLimits }: ThreadSettings, tasks: ReadonlyMap<string, boolean>, context: AsyncResource, onError: (error: Error) => void) {
    const { Piscina } = load()
    this.#context = context
    this.#tasks = tasks
    this.#entry = Piscina.queueOptionsSymbol
    this.#pool = new Piscina({
      filename: workerFile(),
      minThreads: 0,
      // One more than tasks may use, for `check`: it must not wait for tasks that were added before the start.
      maxThreads: max + 1,
      idleTimeout,
      resourceLimits,
      recordTiming: false,
      // Else a thread would sleep between two tasks, and their open connections with it.
      atomics: 'disabled',
      // The only place where the thread of a request is known before it is sent.
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
   * Lends a thread, and runs an attempt on it. Resolves when the thread has returned to the pool. Rejects when the thread dies or is
   * terminated.
   */
  lend (lease: ThreadBorrower, request: ThreadRequest, transfer: readonly ArrayBuffer[], end: EndOfThread): Promise<void> {
    const entry: Entry = { lease, request, transferList: [...transfer] }
    const options = { signal: end, transferList: entry.transferList }
    try {
      return this.#context.runInAsyncScope(() => this.#pool.run(Object.assign(request, { [this.#entry]: entry }), options))
    } catch (error) {
      this.#stranded.add(request)
      throw error
    }
  }

  /** @param threads the ids of the pool's threads, as far as it knows */
  #assign ({ lease, request, transferList }: Entry, thread: PoolThread, threads: number[]): void {
    if (lease.over) {
      request.over = true
      if (this.#stranded.delete(request)) this.#returning.add(thread)
      return
    }
    for (const id of this.#channels.keys()) if (!threads.includes(id)) this.#channels.delete(id)
    const known = this.#channels.get(thread.id)
    const channel = known?.free === true ? known : this.#open(thread.id)
    request.channel = channel.occupy(lease)
    if (request.channel !== null) transferList.push(request.channel.port)
    lease.assigned(channel, known !== undefined)
  }

  #open (threadId: number): ThreadChannel {
    const channel = new ThreadChannel(this.#tasks, () => {
      if (this.#channels.get(threadId) === channel) this.#channels.set(threadId, null)
    })
    this.#channels.set(threadId, channel)
    return channel
  }

  /** Loads the module of a task in a thread. Resolves with `null`, or the error. */
  check ({ name, file }: Pick<Definition, 'name' | 'file'>, signal: AbortSignal): Promise<Thrown | null> {
    return this.#pool.run({ name, file }, { name: 'check', signal })
  }

  /** Whether the pool or a thread still has a stranded request. */
  get #hasStranded (): boolean {
    return this.#stranded.size !== 0 || [...this.#returning].some(({ currentUsage }) => currentUsage !== 0)
  }

  /** Makes a thread take the stranded requests. Piscina's `destroy` would reject them, as unhandled rejections. */
  async #recoverStranded (): Promise<void> {
    Promise.allSettled([this.#start()])
    for (const end = now() + CLOSE_WAIT_MS; this.#hasStranded && now() < end;) await nextTurn()
  }

  /** Starts a thread that has nothing to do. */
  async #start (): Promise<void> {
    return this.#pool.run({ over: true })
  }

  /** Terminates all threads, whatever they do. */
  async close (): Promise<void> {
    this.closed = true
    if (this.#hasStranded) await this.#recoverStranded()
    let timer
    await Promise.race([this.#pool.destroy(), new Promise(resolve => { timer = setTimeout(resolve, CLOSE_WAIT_MS) })])
    clearTimeout(timer)
  }
}

function load (): typeof import('piscina') {
  try {
    // A literal `require`: bundlers see no other one.
    return require('piscina')
  } catch (cause) {
    if ((cause as { code?: unknown }).code !== 'MODULE_NOT_FOUND') throw cause
    throw new FST_BGT_MISSING_PACKAGE('A task that runs on a thread', 'piscina', { cause })
  }
}

/** The file that a thread loads. In a bundle the file is missing, and `require.resolve` may return anything. */
function workerFile (): string {
  let file: unknown
  try {
    file = require.resolve('./worker')
  } catch {}
  if (typeof file !== 'string' || !existsSync(file)) throw new FST_BGT_BUNDLED()
  return file
}
