import type { ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'

/*
 * The end of a raw reply, of node:http and of node:http2, and the state in which it ended.
 */

/** The members of both kinds of raw replies that are used here. */
export interface RawReply extends NodeJS.EventEmitter {
  readonly socket: Socket | null
  readonly stream?: ServerHttp2Stream
  readonly headersSent: boolean
  readonly writableEnded: boolean
  readonly writableFinished: boolean
  readonly destroyed: boolean
}

/**
 * Calls back at the end of a reply, perhaps more than once, and at once where it is over.
 * @param socket of the request: a pipelined reply whose turn has not come has none
 */
export function onReplyEnd (raw: RawReply, socket: Socket, ended: () => void): void {
  if (raw.stream !== undefined) onStreamEnd(raw, raw.stream, ended)
  else if (raw.destroyed || raw.writableFinished || (raw.socket === null && socket.destroyed)) ended()
  else {
    raw.on('close', ended)
    // A pipelined reply hears nothing of the connection before its turn.
    if (raw.socket === null) onSocketClose(raw, socket, ended)
  }
}

function onStreamEnd (raw: RawReply, stream: ServerHttp2Stream, ended: () => void): void {
  if (stream.destroyed || stream.closed) return ended()
  raw.on('close', ended)
  // 'close' also waits for the upload, which a handler that answers early leaves open.
  raw.on('finish', () => { if (raw.writableEnded) ended() })
}

/** Replies that wait for their turn, with one listener for each connection, however many requests are pipelined. */
const pipelined = new WeakMap<Socket, Map<RawReply, () => void>>()

function onSocketClose (raw: RawReply, socket: Socket, closed: () => void): void {
  let waiting = pipelined.get(socket)
  if (waiting === undefined) {
    const all = waiting = new Map()
    pipelined.set(socket, waiting)
    socket.once('close', () => all.forEach(closed => closed()))
  }
  waiting.set(raw, closed)
}

/** Drops the reply of an exchange that is over: a connection may live for days. */
export function forgetReply (raw: RawReply, socket: Socket): void {
  pipelined.get(socket)?.delete(raw)
}

/** To be asked at the end of the reply: a handler that answers a client long gone would change the answer. */
export function wasAborted (raw: RawReply): boolean {
  if (!raw.writableEnded) return true
  if (raw.stream !== undefined) return raw.stream.rstCode !== 0
  // node:http takes a finished reply off its socket.
  return raw.socket === null ? !raw.writableFinished : raw.socket.destroyed
}
