import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import { connect, type Socket } from 'node:net'
import { once } from 'node:events'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import { listen } from './server'
import { until } from './until'

/** A client that speaks HTTP/1 letter by letter, to leave when no library would. */
export class RawClient {
  readonly socket: Socket
  received = ''

  constructor (socket: Socket) {
    this.socket = socket
    socket.setEncoding('latin1')
    socket.on('data', (data: string) => { this.received += data })
    socket.on('error', () => {})
  }

  /** Sends one request, or the beginning of one. */
  send (method: string, path: string, headers: Record<string, string> = {}, body = ''): void {
    const lines = Object.entries({ host: 'localhost', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
    this.socket.write(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body}`)
  }

  /** Resolves when the text has come in. */
  async until (text: string): Promise<void> {
    await until(`'${text}' of the server`, () => this.received.includes(text))
  }

  /** Leaves without a word. */
  leave (): void {
    this.socket.resetAndDestroy()
  }
}

export async function rawClient (t: Test, port: number, options: { allowHalfOpen?: boolean } = {}): Promise<RawClient> {
  const socket = connect({ port, host: '127.0.0.1', ...options })
  t.teardown(() => socket.destroy())
  await once(socket, 'connect')
  return new RawClient(socket)
}

/** Sends `GET path`, and leaves once the promise has resolved. */
export async function getAndLeave (t: Test, app: FastifyInstance, begun: Promise<unknown>, path = '/'): Promise<void> {
  const { port } = await listen(app)
  const client = await rawClient(t, port)
  client.send('GET', path)
  await begun
  client.leave()
}

export async function http2Client (t: Test, url: string): Promise<ClientHttp2Session> {
  const session = connectHttp2(url)
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  await once(session, 'connect')
  return session
}

/** The status and the body of an HTTP/2 response. */
export async function answer (stream: ClientHttp2Stream): Promise<{ status: number, body: string }> {
  let body = ''
  stream.setEncoding('utf8')
  stream.on('data', (data: string) => { body += data })
  const [headers] = await once(stream, 'response')
  if (!stream.readableEnded) await once(stream, 'end')
  return { status: headers[':status'], body }
}
