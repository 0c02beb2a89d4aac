import type { ChannelModel, Channel } from 'amqplib'
import { setDeadline } from '../../shared/deadline'
import { clearTimeout, setTimeout } from '../../shared/timers'

type Connect = typeof import('amqplib')['connect']

/** Options of a connection to RabbitMQ. */
export interface BrokerOptions {
  /** The part of amqplib that connects. */
  connect: Connect
  /** URLs, or options of amqplib; with several, each attempt takes the next one. */
  brokers: readonly (string | object)[]
  /** Options of the socket, such as `ca`. */
  socket: object
  /** The connection's name on RabbitMQ's management page. */
  name: string
  /** Milliseconds for a connection to be made and set up. */
  timeout: number
  /** Opens channels on a connection that was made. Called again after each reconnect. */
  setUp: (model: ChannelModel) => Promise<void>
  /** Told of each connection that was lost, or could not be made again. */
  inTrouble: (error: Error) => void
}

/** Milliseconds before the next attempt to connect: soon at first, and never later than 2 s. */
const retryDelay = (attempts: number) => Math.min(50 * 2 ** attempts, 2_000)

/** One connection to RabbitMQ. It is made again whenever it is lost, until it is closed. Made by the publisher and by the worker. */
export class Broker {
  readonly #options: BrokerOptions
  #model: ChannelModel | null = null
  /** Ends the socket at once, whatever the other side does. */
  #abort: AbortController | null = null
  #reason: Error | null = null
  #attempts = 0
  #retryTimer: NodeJS.Timeout | undefined
  #closed = false

  constructor (options: BrokerOptions) {
    this.#options = options
  }

  /** Why there is no connection now. */
  get reason (): Error {
    return this.#reason ?? new Error('there is no connection')
  }

  /** Connects for the first time. Rejects if that fails, and then does not try again. */
  async open (): Promise<void> {
    try {
      await this.#connect()
    } catch (error) {
      this.#closed = true
      throw error
    }
  }

  async #connect (): Promise<void> {
    const { connect, brokers, socket, name, timeout, setUp } = this.#options
    const broker = brokers[this.#attempts % brokers.length] as string
    const abort = this.#abort = new AbortController()
    const clearDeadline = setDeadline(timeout, () => this.#cut(new Error(`no connection within ${timeout} ms`), abort))
    let model: ChannelModel | null = null
    try {
      // `signal` is Node's own option of a socket: amqplib by itself waits for the other side to end a connection.
      model = await connect(broker, { noDelay: true, keepAlive: true, clientProperties: { connection_name: name }, ...socket, signal: abort.signal } as object) as ChannelModel
      const opened = model
      opened.on('error', error => { this.#reason ??= error })
      const lost = new Promise<never>((_resolve, reject) => {
        opened.on('close', error => {
          reject(this.#reason ?? error ?? new Error('the connection was closed'))
          this.#lost(opened, error)
        })
      })
      lost.catch(() => {})
      this.#reason = null
      await Promise.race([setUp(opened), lost])
      this.#model = opened
      this.#attempts = 0
    } catch (error) {
      this.#reason ??= error as Error
      abort.abort()
      throw this.#reason
    } finally {
      clearDeadline()
    }
  }

  #lost (model: ChannelModel, error: Error | undefined): void {
    if (this.#model !== model) return
    this.#model = null
    this.#abort?.abort()
    this.#reason ??= error ?? new Error('the connection was closed')
    if (this.#closed) return
    this.#options.inTrouble(this.#reason)
    this.#retry()
  }

  #retry (): void {
    this.#retryTimer = setTimeout(() => {
      this.#connect().catch(error => {
        if (this.#closed) return
        this.#options.inTrouble(error as Error)
        this.#retry()
      })
    }, retryDelay(this.#attempts++))
  }

  /** Gives the connection up, since it does not answer. A new one is made. */
  giveUp (reason: Error): void {
    if (this.#abort !== null) this.#cut(reason, this.#abort)
  }

  #cut (reason: Error, abort: AbortController): void {
    this.#reason = reason
    abort.abort()
  }

  /** Closes the connection; after so many ms whether RabbitMQ answers or not. */
  async close (ms: number): Promise<void> {
    this.#closed = true
    clearTimeout(this.#retryTimer)
    // A connection that is lost meanwhile leaves the promise of its close open (amqplib 2.3).
    await atMost(ms, Promise.allSettled([this.#model?.close()]))
    this.#abort?.abort()
  }
}

/** RabbitMQ closes a channel on which a queue is asked for that it does not have. */
const NOT_FOUND = 404

/**
 * Sees to it that a queue is there. One that exists is used as it is, whatever its arguments are; else it is declared as Celery
 * declares it.
 */
export async function ensureQueue (model: ChannelModel, queue: string): Promise<void> {
  const channel = await quietChannel(model)
  try {
    await channel.checkQueue(queue)
    await channel.close()
  } catch (error) {
    if ((error as { code?: unknown }).code !== NOT_FOUND) throw error
    const another = await quietChannel(model)
    await another.assertQueue(queue, { durable: true })
    await another.close()
  }
}

/** The call that fails rejects; the event `error` says the same once more, and would end the process. */
async function quietChannel (model: ChannelModel): Promise<Channel> {
  const channel = await model.createChannel()
  channel.on('error', () => {})
  return channel
}

/** Resolves when a promise does, or after so many ms. */
export async function atMost (ms: number, promise: Promise<unknown>): Promise<void> {
  let clearDeadline!: () => void
  await Promise.race([promise, new Promise<void>(resolve => { clearDeadline = setDeadline(ms, resolve) })])
  clearDeadline()
}
