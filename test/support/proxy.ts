import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { Test } from 'tap'

/** A TCP proxy of a test, in front of a server, which can behave as a bad network does. */
export class Proxy {
  readonly port: number
  /** The port that new connections lead to. */
  target: number
  /** Whether new connections are silent, too: the network accepts them, and passes nothing on. */
  swallowsNew = false
  /** Connections that were made through it. */
  accepted = 0
  readonly #pairs = new Set<{ client: Socket, server: Socket }>()

  private constructor (port: number, target: number) {
    this.port = port
    this.target = target
  }

  static async start (t: Test, target: number): Promise<Proxy> {
    const server = createServer(socket => proxy.#accept(socket)).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const proxy = new Proxy((server.address() as AddressInfo).port, target)
    t.teardown(() => {
      server.close()
      proxy.cut()
    })
    return proxy
  }

  #accept (client: Socket): void {
    this.accepted++
    const server = connect(this.target, '127.0.0.1')
    const pair = { client, server }
    this.#pairs.add(pair)
    for (const [one, other] of [[client, server], [server, client]] as const) {
      one.on('error', () => {})
      one.on('close', () => {
        this.#pairs.delete(pair)
        other.destroy()
      })
    }
    if (this.swallowsNew) return this.#silence(pair)
    client.pipe(server)
    server.pipe(client)
  }

  /**
   * The open connections stay open and pass nothing on: no FIN, no RST. New ones work, unless `swallowsNew`.
   * @param port only the one that the server sees coming from this port
   */
  silence (port?: number): void {
    for (const pair of this.#pairs) if (port === undefined || pair.server.localPort === port) this.#silence(pair)
  }

  #silence ({ client, server }: { client: Socket, server: Socket }): void {
    for (const [one, other] of [[client, server], [server, client]] as const) {
      one.unpipe(other)
      // Data is read and lost, as on a network whose router has forgotten the connection.
      one.resume()
    }
  }

  /** Ends all open connections. */
  cut (): void {
    for (const { client, server } of this.#pairs) {
      client.destroy()
      server.destroy()
    }
  }
}
