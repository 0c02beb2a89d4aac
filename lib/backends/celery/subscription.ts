import type { Channel, ChannelModel, ConsumeMessage } from 'amqplib'
import { setDeadline } from '../../shared/deadline'
import { clearInterval, now, setInterval } from '../../shared/timers'
import { atMost, Broker, ensureQueue, type BrokerOptions } from './broker'
import { Consumer, type HeldMessage } from './held-message'

/** The worker, as its subscription sees it. */
export interface Subscriber {
  /** The number of messages that the worker may have beside those that it has. */
  readonly wanted: number
  receive (message: ConsumeMessage, consumer: Consumer): void
  /** The connection is gone: RabbitMQ hands out again all that was not acknowledged. */
  lost (): void
}

/** The largest prefetch of AMQP, a field of 16 bits. */
const MAX_PREFETCH = 65_535

/** The interval between two signs of life that are asked for. */
const PING_MS = 10_000

/** The wait for one sign of life. */
const SILENCE_MS = 15_000

/**
 * The subscription of a worker to its queue, for as many messages as the worker wants. Made by the worker, made anew with each
 * connection, ended by `close`.
 */
export class Subscription {
  readonly #queue: string
  readonly #subscriber: Subscriber
  readonly #broker: Broker
  #channel: Channel | null = null
  #consumer: Consumer | null = null
  #adjusting = false
  #adjustAgain = false
  #pingTimer: NodeJS.Timeout | undefined

  constructor (queue: string, subscriber: Subscriber, brokerOptions: Omit<BrokerOptions, 'setUp'>) {
    this.#queue = queue
    this.#subscriber = subscriber
    this.#broker = new Broker({ ...brokerOptions, setUp: model => this.#setUp(model) })
  }

  open (): Promise<void> {
    return this.#broker.open()
  }

  async #setUp (model: ChannelModel): Promise<void> {
    await ensureQueue(model, this.#queue)
    const channel = await model.createChannel()
    let reason: Error | null = null
    channel.on('error', error => { reason = error })
    channel.on('close', () => {
      this.#lost()
      // RabbitMQ has closed this channel alone, for instance since a task has run for longer than its limit.
      if (reason !== null) this.#broker.giveUp(reason)
    })
    this.#channel = channel
    this.#pingTimer = setInterval(() => this.#ping(channel), PING_MS)
    this.adjust()
  }

  #lost (): void {
    clearInterval(this.#pingTimer)
    this.#channel = null
    this.#consumer = null
    this.#subscriber.lost()
  }

  /** An open connection that says nothing would keep a worker waiting for ever. */
  #ping (channel: Channel): void {
    const clearDeadline = setDeadline(SILENCE_MS, () => this.#broker.giveUp(new Error(`no answer within ${SILENCE_MS} ms`)))
    Promise.allSettled([channel.checkQueue(this.#queue)]).then(clearDeadline)
  }

  get #wanted (): number {
    return this.#channel === null ? 0 : Math.min(this.#subscriber.wanted, MAX_PREFETCH)
  }

  /** Follows what the worker wants, by one call at a time. */
  adjust (): void {
    this.#adjustAgain = true
    if (!this.#adjusting) this.#adjustWhile()
  }

  async #adjustWhile (): Promise<void> {
    this.#adjusting = true
    while (this.#adjustAgain) {
      this.#adjustAgain = false
      // A call fails if its channel closes, which has a listener of its own.
      await Promise.allSettled([this.#adjustOnce()])
    }
    // In the same turn as the last look: a change after it begins anew.
    this.#adjusting = false
  }

  /**
   * A prefetch holds for a consumer that is made after it, and what is kept counts in it. So a consumer whose messages are all kept
   * is replaced by a new one, for as many as there are places. (A prefetch for a whole channel could be changed, but quorum queues do
   * not have it: https://www.rabbitmq.com/docs/quorum-queues#global-qos)
   */
  async #adjustOnce (): Promise<void> {
    const wanted = this.#wanted
    const old = this.#consumer
    if (old === null ? wanted === 0 : old.credit <= wanted && (old.credit > 0 || wanted === 0)) return
    this.#consumer = null
    if (old !== null) await old.channel.cancel(old.tag)
    const places = this.#wanted
    if (places === 0) return
    const channel = this.#channel as Channel
    // Before the answers: whoever stops the subscription meanwhile finds it.
    const consumer = this.#consumer = new Consumer(channel, places)
    await Promise.all([
      channel.prefetch(places),
      channel.consume(this.#queue, message => {
        if (message === null) this.#cancelledByBroker()
        else this.#receive(message, consumer)
      }, { consumerTag: consumer.tag })
    ])
    // Something may have changed on the way.
    this.#adjustAgain = true
  }

  /** The queue was deleted, or its node has gone. */
  #cancelledByBroker (): void {
    this.#broker.giveUp(new Error(`RabbitMQ has ended the subscription to the queue '${this.#queue}'`))
  }

  #receive (message: ConsumeMessage, consumer: Consumer): void {
    consumer.credit--
    this.#subscriber.receive(message, consumer)
    this.adjust()
  }

  /** Ends the present consumer; `adjust` makes another one, as soon as the worker wants messages. */
  async stop (): Promise<void> {
    const consumer = this.#consumer
    this.#consumer = null
    await consumer?.channel.cancel(consumer.tag)
  }

  /** Called when a message no longer counts in the prefetch, or will not as soon as it is acknowledged. */
  free (consumer: Consumer): void {
    consumer.credit++
    this.adjust()
  }

  /** Whether its messages can be acknowledged: on the channel that they came by. */
  isLive (consumer: Consumer): boolean {
    return consumer.channel === this.#channel
  }

  /** Tells RabbitMQ that a message is done with, if it can still be told: else it is handed out again. */
  acknowledge ({ consumer, message }: HeldMessage): void {
    if (this.isLive(consumer)) consumer.channel.ack(message)
  }

  /** Gives up a message: the queue's dead letter exchange gets it, if there is one. */
  reject (message: ConsumeMessage, consumer: Consumer): void {
    if (this.isLive(consumer)) consumer.channel.reject(message, false)
  }

  /** Resolves when RabbitMQ has all acknowledgements that were sent. */
  async arrived ({ channel }: Consumer): Promise<void> {
    await channel.checkQueue(this.#queue)
  }

  /** Disconnects; after so many ms whether RabbitMQ answers or not. */
  async close (ms: number): Promise<void> {
    const deadline = now() + ms
    const channel = this.#channel
    this.#lost()
    // Behind the acknowledgements: the close of a connection overtakes them (amqplib 2.3).
    await atMost(ms, Promise.allSettled([channel?.close()]))
    await this.#broker.close(deadline - now())
  }
}
