'use strict'

const { connect } = require('node:net')
const { once } = require('node:events')
const { answer } = require('./child')
const { quantile } = require('./statistics')

/*
 * The load generator: keep-alive connections to a port of this machine, each with one request under way at a time. It
 * writes one prepared buffer and reads no more of an answer than its end and its status, so that it is lighter than any
 * server. Times out and counts by itself.
 */

const HOST = '127.0.0.1'
const MAX_REQUESTS = 2_000_000

class Connection {
  #socket
  #request = null
  #received = ''
  #sentAt = 0
  /** Called with the latency in milliseconds. Returns `true` to send the next request. */
  #answered = null

  async open (port) {
    // Reuse one read buffer instead of the stream: less CPU for the load generator.
    const buffer = Buffer.allocUnsafe(64 * 1024)
    this.#socket = connect({ host: HOST, port, noDelay: true, onread: { buffer, callback: length => this.#read(buffer.latin1Slice(0, length)) } })
    this.#socket.on('error', () => {})
    await once(this.#socket, 'connect')
  }

  /** Resolves after the answer to the last request. */
  run (request, answered) {
    this.#request = request
    return new Promise((resolve, reject) => {
      const closed = () => reject(new Error('the server has closed a connection'))
      this.#socket.once('close', closed)
      this.#answered = ms => {
        if (answered(ms)) return this.#send()
        this.#socket.off('close', closed)
        resolve()
      }
      this.#send()
    })
  }

  close () {
    this.#socket.destroy()
  }

  #send () {
    this.#sentAt = performance.now()
    this.#socket.write(this.#request)
  }

  #read (text) {
    this.#received = this.#received === '' ? text : this.#received + text
    const end = this.#received.indexOf('\r\n\r\n')
    if (end === -1) return
    const length = /content-length: (\d+)/i.exec(this.#received)
    if (!this.#received.startsWith('HTTP/1.1 200 ') || length === null) throw new Error(`unexpected answer:\n${this.#received}`)
    if (this.#received.length < end + 4 + Number(length[1])) return
    this.#received = ''
    this.#answered(performance.now() - this.#sentAt)
  }
}

/** Keeps this process from waiting for events: the server would pay for waking it, and the more the longer an answer takes. */
function stayAwake () {
  let awake = true
  const turn = () => { if (awake) setImmediate(turn) }
  turn()
  return () => { awake = false }
}

let connections = []

answer({
  async open ({ port, count }) {
    const opened = Array.from({ length: count }, () => new Connection())
    await Promise.all(opened.map(connection => connection.open(port)))
    connections.push({ port, opened })
  },

  /**
   * Sends requests for the given time. Resolves with their number and latencies.
   * @param awake whether to stay awake meanwhile, where nothing else needs the processor
   */
  async run ({ port, method, path, milliseconds, awake = false }) {
    const sleep = awake ? stayAwake() : () => {}
    const request = Buffer.from(`${method} ${path} HTTP/1.1\r\nHost: ${HOST}:${port}\r\n${method === 'POST' ? 'Content-Length: 0\r\n' : ''}\r\n`)
    const latencies = []
    const begin = performance.now()
    const end = begin + milliseconds
    const answered = ms => {
      latencies.push(ms)
      return performance.now() < end && latencies.length < MAX_REQUESTS
    }
    const { opened } = connections.find(group => group.port === port)
    await Promise.all(opened.map(connection => connection.run(request, answered)))
    sleep()
    return {
      requests: latencies.length,
      seconds: (performance.now() - begin) / 1000,
      p50: quantile(latencies, 0.5),
      p99: quantile(latencies, 0.99)
    }
  },

  close ({ port }) {
    for (const group of connections) {
      if (group.port === port) group.opened.forEach(connection => connection.close())
    }
    connections = connections.filter(group => group.port !== port)
  }
})
