import type { ChannelModel, ConfirmChannel } from 'amqplib'
import { setDeadline } from '../../shared/deadline'
import { now } from '../../shared/timers'
import { Broker, ensureQueue, type BrokerOptions } from './broker'
import type { Outgoing } from './message'

/** A message that waits for RabbitMQ's confirm. */
interface Pending {
  /** When it was sent, by the clock of `lib/timers`. */
  readonly since: number
  readonly reject: (error: Error) => void
  /** Why RabbitMQ has returned it. */
  returned: Error | null
}

/** Publishes messages, each of which RabbitMQ confirms. It has a connection of its own, as RabbitMQ may block those that publish. */
export class Publisher {
  readonly #broker: Broker
  readonly #queues: Set<string>
  readonly #silence: number
  #model: ChannelModel | null = null
  #channel: ConfirmChannel | null = null
  #blocked: string | null = null
  /** By their tasks' ids, in the order in which they were sent. */
  readonly #pending = new Map<string, Pending>()
  #clearDeadline: (() => void) | null = null
  #declaring: Promise<void> | null = null

  /**
   * @param queues are declared when the connection is made
   * @param silence milliseconds without a confirm after which the connection is given up
   */
  constructor (options: Omit<BrokerOptions, 'setUp'>, queues: Set<string>, silence: number) {
    this.#queues = queues
    this.#silence = silence
    this.#broker = new Broker({ ...options, setUp: model => this.#setUp(model) })
  }

  open (): Promise<void> {
    return this.#broker.open()
  }

  async #setUp (model: ChannelModel): Promise<void> {
    this.#blocked = null
    model.on('blocked', reason => {
      this.#blocked = reason
      // Sent before this was known: they may be confirmed when the alarm is over, and their clients wait.
      for (const { reject } of this.#pending.values()) reject(this.#blockedError())
    })
    model.on('unblocked', () => { this.#blocked = null })
    await this.#declare(model)
    await this.#openChannel(model)
    this.#model = model
  }

  async #declare (model: ChannelModel): Promise<void> {
    for (const queue of this.#queues) await ensureQueue(model, queue)
  }

  async #openChannel (model: ChannelModel): Promise<void> {
    const channel = await model.createConfirmChannel()
    let reason: Error | null = null
    channel.on('error', error => { reason = error })
    channel.on('return', ({ properties, fields }) => {
      const pending = this.#pending.get(properties.correlationId as string)
      if (pending !== undefined) pending.returned = new Error(`there is no queue '${fields.routingKey}'`)
    })
    // Ahead of amqplib's own listener, which calls back for what is not confirmed.
    channel.prependListener('close', () => {
      this.#channel = null
      // RabbitMQ has closed this channel alone.
      if (reason !== null) this.#broker.giveUp(reason)
    })
    this.#channel = channel
  }

  #blockedError (): Error {
    return new Error(`RabbitMQ takes no messages now: ${this.#blocked}`)
  }

  /** Resolves when RabbitMQ has all of these messages; rejects with the first error. */
  publish (messages: readonly Outgoing[]): Promise<void> {
    return new Promise((resolve, reject) => {
      let left = messages.length
      const confirmed = () => { if (--left === 0) resolve() }
      for (const message of messages) this.#publish(message, confirmed, reject)
    })
  }

  #publish ({ queue, content, properties }: Outgoing, confirmed: () => void, reject: (error: Error) => void): void {
    const channel = this.#channel
    if (channel === null) return reject(this.#broker.reason)
    if (this.#blocked !== null) return reject(this.#blockedError())
    const id = properties.correlationId
    const pending: Pending = { since: now(), reject, returned: null }
    channel.publish('', queue, content, properties, error => {
      if (this.#pending.get(id) === pending) this.#pending.delete(id)
      if (error !== null) return reject(this.#channel === channel ? new Error(`the queue '${queue}' refuses it: it is full`) : this.#broker.reason)
      if (pending.returned === null) return confirmed()
      this.#declareAgain(queue)
      reject(pending.returned)
    })
    this.#pending.set(id, pending)
    this.#watch()
  }

  /** The queue was deleted while this process was connected, or is one that a chain of Celery's names. */
  #declareAgain (queue: string): void {
    this.#queues.add(queue)
    this.#declaring ??= this.#declare(this.#model as ChannelModel)
      .catch(error => this.#broker.giveUp(error as Error))
      .finally(() => { this.#declaring = null })
  }

  /** One timer for all that is sent: it looks at the oldest one. */
  #watch (ms = this.#silence): void {
    this.#clearDeadline ??= setDeadline(ms, () => {
      this.#clearDeadline = null
      const [oldest] = this.#pending.values()
      if (oldest === undefined) return
      const left = oldest.since + this.#silence - now()
      if (left <= 0) this.#broker.giveUp(new Error(`no answer within ${this.#silence} ms`))
      else this.#watch(left)
    }, false)
  }

  close (ms: number): Promise<void> {
    this.#clearDeadline?.()
    return this.#broker.close(ms)
  }
}
