import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { PassThrough, Readable, Stream } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import backgroundTasks, { defineTask, type BackgroundTasksOptions, type TaskHandle } from '../../index'
import { until } from './until'
import { listen } from './server'
import { noHandlerTimeout, noHttp2Trailers, noSecondReply } from './versions'

/*
 * Every way of answering, in one table, tried without a task, with tasks and with durable ones, with and without another
 * plugin's hooks: the client gets the same each time, and the tasks run as their `runOn` says.
 */

/** Adds the request's tasks, if there are any. */
type Add = (request: FastifyRequest) => void

interface Way {
  name: string
  /** Makes the route `/`, in a context of its own. */
  route: (app: FastifyInstance, add: Add) => void
  /** Which tasks run. A way whose error comes after another plugin's hook has delayed the first reply may differ there. */
  ends: 'success' | 'failure'
  endsWithHook?: 'success' | 'failure'
  method?: string
  path?: string
  /** A fault of the handler that Fastify answers with the stream, or with nothing, as its hooks have it: both will do. */
  faulty?: boolean
  /** Not to be had on HTTP/2. */
  http1?: boolean
  /** Why it cannot be tried. */
  skip?: string | false
}

const boom = (fields: object = {}) => Object.assign(new Error('boom'), fields)
const webStream = (source: ConstructorParameters<typeof ReadableStream>[0]) => new ReadableStream(source as never)
const bytes = (text: string) => new TextEncoder().encode(text)
const missing = '/no/such/file'

/** A stream without a state that tells of its failure. */
function oldStream (): Stream {
  const stream = Object.assign(new Stream(), { destroy () {} })
  setImmediate(() => stream.emit('error', boom()))
  return stream
}

/** The handler of a route that answers like this. */
function way (name: string, ends: Way['ends'], handler: (this: FastifyInstance, request: FastifyRequest, reply: FastifyReply) => unknown, more: Partial<Way> = {}): Way {
  return {
    name,
    ends,
    route: (app, add) => {
      // A handler that is no async function must not become one.
      app.get('/', function (request, reply) {
        add(request)
        return handler.call(this, request, reply)
      })
    },
    ...more
  }
}

export const WAYS: Way[] = [
  way('a returned object', 'success', async () => ({ a: 1 })),
  way('a returned string', 'success', async () => 'x'),
  way('a returned buffer', 'success', async () => Buffer.from('bytes')),
  way('a returned typed array', 'success', async () => bytes('bytes')),
  way('null', 'success', async () => null),
  way('nothing, from an async handler', 'success', async () => {}),
  way('reply.send in a callback handler', 'success', (_request, reply) => { reply.send('x') }),
  way('reply.send that is returned', 'success', async (_request, reply) => reply.code(202).send({ a: 1 })),
  way('reply.send without return in an async handler', 'success', async (_request, reply) => { reply.code(202).send({ a: 1 }) }),
  way('reply.send of a buffer without return', 'success', async (_request, reply) => { reply.code(202).send(Buffer.from('bytes')) }),
  way('reply.send of a stream without return', 'success', async (_request, reply) => { reply.code(202).send(Readable.from(['a', 'b'])) }, { faulty: true }),
  way('reply.send, and the handler goes on', 'success', async (_request, reply) => {
    reply.code(202).send('first')
    await sleep(5)
  }),
  way('reply.send and a return value', 'success', async (_request, reply) => { reply.send('first'); return 'second' }),
  way('reply.send twice', 'success', (_request, reply) => { reply.send('first'); reply.send('second') }),
  way('reply.send twice, once with another status', 'success', (_request, reply) => { reply.code(201).send('first'); reply.code(500).send('second') }),
  way('reply.send, then a status', 'success', (_request, reply) => { reply.send('x'); reply.code(500) }),
  way('reply.send, then a type', 'success', (_request, reply) => { reply.send({ a: 1 }); reply.type('text/plain') }),
  way('reply.send, then a header with a line break', 'success', async (_request, reply) => { reply.send('x'); reply.header('x-bad', 'a\nb') }, { endsWithHook: 'failure', http1: true }),
  way('reply.send, then hijack', 'success', async (_request, reply) => { reply.send('x'); reply.hijack() }),
  way('reply.send that is awaited', 'success', async (_request, reply) => { await reply.send('x') }),
  way('reply.send of a stream that is awaited', 'success', async (_request, reply) => { await reply.send(Readable.from(['a', 'b'])) }),
  way('reply.send, then a throw', 'success', async (_request, reply) => { reply.send('first'); throw boom() }),
  way('reply.send, then a throw in a callback handler', 'success', (_request, reply) => { reply.send('first'); throw boom() }, { endsWithHook: 'failure' }),
  way('reply.send, then reply.send of an error', 'success', (_request, reply) => { reply.send('first'); reply.send(boom()) }, { endsWithHook: 'failure' }),
  way('reply.send in a timer', 'success', (_request, reply) => { setTimeout(() => reply.send('x'), 1) }),
  way('reply.send in a timer, the reply returned', 'success', async (_request, reply) => { setTimeout(() => reply.send('x'), 1); return reply }),
  way('a throw', 'failure', () => { throw boom() }),
  way('a rejection', 'failure', async () => { throw boom() }),
  way('an error with a status', 'failure', async () => { throw boom({ statusCode: 422, code: 'E_INPUT', headers: { 'x-error': 'yes' } }) }),
  way('reply.send of an error', 'failure', (_request, reply) => { reply.send(boom()) }),
  way('reply.send of an error without return', 'failure', async (_request, reply) => { reply.code(409).send(boom()) }),
  way('a returned error', 'failure', async () => boom()),
  way('a status 500', 'success', async (_request, reply) => reply.code(500).send('x')),
  way('a redirect', 'success', async (_request, reply) => reply.redirect('/elsewhere')),
  way('204', 'success', async (_request, reply) => reply.code(204).send()),
  way('204 with a stream that fails', 'success', async (_request, reply) => reply.code(204).send(createReadStream(missing))),
  way('304', 'success', async (_request, reply) => reply.code(304).send()),
  way('HEAD', 'success', async () => 'four', { method: 'HEAD' }),
  way('HEAD of a stream', 'success', async () => Readable.from(['a']), { method: 'HEAD' }),
  way('hijack', 'success', (_request, reply) => {
    reply.hijack()
    reply.raw.end('by hand')
  }),
  way('hijack in an async handler', 'success', async (_request, reply) => {
    reply.hijack()
    await sleep(1)
    reply.raw.end('by hand')
  }),
  way('the raw reply', 'success', async (_request, reply) => { reply.raw.end('by hand') }),
  way('callNotFound', 'success', (_request, reply) => { reply.callNotFound() }),
  {
    name: 'callNotFound with a handler for it',
    ends: 'success',
    route: (app, add) => {
      app.setNotFoundHandler((_request, reply) => { reply.code(404).send('nowhere') })
      app.get('/', (request, reply) => { add(request); reply.callNotFound() })
    }
  },
  {
    name: 'a handler for what is not found',
    ends: 'success',
    route: (app, add) => { app.setNotFoundHandler(async (request, reply) => { add(request); return reply.code(404).send({ no: 'where' }) }) }
  },
  {
    name: 'a handler for what is not found, without return',
    ends: 'success',
    route: (app, add) => { app.setNotFoundHandler(async (request, reply) => { add(request); reply.code(404).send({ no: 'where' }) }) }
  },
  {
    name: 'a handler for what is not found that fails',
    ends: 'failure',
    route: (app, add) => { app.setNotFoundHandler(async request => { add(request); throw boom() }) }
  },
  {
    name: 'an error handler that answers',
    ends: 'failure',
    route: (app, add) => {
      app.setErrorHandler((_error, _request, reply) => { reply.code(418).send('teapot') })
      app.get('/', async request => { add(request); throw boom() })
    }
  },
  {
    name: 'an async error handler that sends without return',
    ends: 'failure',
    route: (app, add) => {
      app.setErrorHandler(async (_error, _request, reply) => { reply.code(418).send('teapot') })
      app.get('/', async request => { add(request); throw boom() })
    }
  },
  {
    name: 'an error handler that fails',
    ends: 'failure',
    route: (app, add) => {
      app.setErrorHandler(async () => { throw boom({ statusCode: 503 }) })
      app.get('/', async request => { add(request); throw boom() })
    }
  },
  way('a stream', 'success', async () => Readable.from(['a', 'b'])),
  way('a file', 'success', async () => createReadStream(__filename, { end: 20 })),
  way('a missing file', 'failure', async () => createReadStream(missing)),
  way('a missing file, sent without return', 'failure', async (_request, reply) => { reply.send(createReadStream(missing)) }, { faulty: true }),
  way('a stream that has failed', 'failure', async () => new Readable({ read () {} }).on('error', () => {}).destroy(boom())),
  way('a stream that fails before its first byte', 'failure', async () => new Readable({ read () { this.destroy(boom({ statusCode: 409 })) } })),
  way('a stream that fails at once', 'failure', async () => {
    const stream = new PassThrough()
    setImmediate(() => stream.destroy(boom()))
    return stream
  }),
  way('a stream that fails midway', 'success', async () => Readable.from((async function * () {
    yield 'chunk'
    await sleep(5)
    throw boom()
  })())),
  way('a stream of an old kind that fails', 'failure', async () => oldStream()),
  way('a web stream', 'success', async () => webStream({ start (c) { c.enqueue(bytes('web')); c.close() } })),
  way('a web stream that fails at once', 'failure', async () => webStream({ start (c) { c.error(boom()) } })),
  way('a web stream that fails when it is read', 'failure', async () => webStream({ async pull () { throw boom() } })),
  way('a web stream over a missing file', 'failure', async () => Readable.toWeb(createReadStream(missing))),
  way('a web stream that is locked', 'failure', async () => {
    const stream = webStream({})
    stream.getReader()
    return stream
  }),
  way('a Response', 'success', async () => new Response('web', { status: 201, headers: { 'x-own': 'yes' } })),
  way('a Response without a body', 'success', async () => new Response(null, { status: 204 })),
  way('a Response whose stream fails', 'failure', async () => new Response(webStream({ async pull () { throw boom() } }) as never)),
  way('a Response over a missing file', 'failure', async () => new Response(Readable.toWeb(createReadStream(missing)) as never)),
  way('a Response that has been read', 'failure', async () => {
    const response = new Response('web')
    await response.text()
    return response
  }),
  way('a header with a line break', 'failure', async (_request, reply) => { reply.header('x-bad', 'a\nb'); return 'x' }, { http1: true }),
  way('a header with a line break, sent without return', 'failure', async (_request, reply) => { reply.header('x-bad', 'a\nb').send('x') }, { http1: true }),
  way('a status that reply.code refuses', 'failure', async (_request, reply) => reply.code(999).send('x')),
  way('a status that Node refuses', 'failure', async (_request, reply) => { reply.raw.statusCode = 99; return 'x' }, { http1: true }),
  way('a payload that Fastify refuses', 'failure', async (_request, reply) => reply.type('text/plain').send({ a: 1 })),
  way('a payload that Fastify refuses, sent without return', 'failure', async (_request, reply) => { reply.type('text/plain').send({ a: 1 }) }),
  way('a trailer', 'success', async (_request, reply) => { reply.trailer('x-end', async () => 'yes'); return 'body' }, { skip: noHttp2Trailers }),
  {
    name: 'a payload that its schema refuses',
    ends: 'failure',
    route: (app, add) => {
      const schema = { response: { 200: { type: 'object', required: ['a'], properties: { a: { type: 'string' } } } } }
      app.get('/', { schema }, async request => { add(request); return { b: 1 } })
    }
  },
  {
    name: 'a request that its schema refuses',
    ends: 'failure',
    route: (app, add) => {
      const schema = { querystring: { type: 'object', required: ['q'], properties: { q: { type: 'string' } } } }
      app.get('/', { schema, preValidation: async request => { add(request) } }, async () => 'never')
    }
  },
  {
    name: 'handlerTimeout',
    ends: 'failure',
    skip: noHandlerTimeout,
    route: (app, add) => {
      app.get('/', { handlerTimeout: 20 }, async (request, reply) => {
        add(request)
        await once(reply.raw, 'finish')
      })
    }
  },
  {
    name: 'an onRequest hook that answers',
    ends: 'success',
    route: (app, add) => {
      app.get('/', { onRequest: async (request, reply) => { add(request); return reply.code(401).send('no') } }, async () => 'never')
    }
  },
  {
    name: 'a preHandler hook that answers by callback',
    ends: 'success',
    route: (app, add) => {
      app.get('/', { preHandler: (request, reply, _done) => { add(request); reply.code(401).send('no') } }, async () => 'never')
    }
  },
  {
    name: 'a hook that fails',
    ends: 'failure',
    route: (app, add) => {
      app.get('/', { preHandler: async request => { add(request); throw boom() } }, async () => 'never')
    }
  },
  {
    name: 'an onSend hook that changes the payload',
    ends: 'success',
    route: (app, add) => {
      app.addHook('onSend', async (_request, _reply, payload) => `<${payload}>`)
      app.get('/', async request => { add(request); return 'x' })
    }
  },
  {
    name: 'an onSend hook that makes a status of it',
    ends: 'success',
    route: (app, add) => {
      app.addHook('onSend', (_request, reply, payload, done) => { reply.code(203); done(null, payload) })
      app.get('/', async request => { add(request); return 'x' })
    }
  },
  ...(['async', 'callback', 'throwing'] as const).flatMap(kind => (['context', 'route', 'last'] as const).map((where): Way => ({
    name: `an ${kind} onSend hook of a ${where === 'last' ? 'plugin that comes last' : where} that fails`,
    ends: 'failure',
    route: (app, add) => {
      const fails = (reply: FastifyReply) => reply.statusCode === 200
      const hook = {
        async: async (_request: unknown, reply: FastifyReply) => { if (fails(reply)) throw boom() },
        callback: (_request: unknown, reply: FastifyReply, payload: unknown, done: (error: Error | null, payload: unknown) => void) => {
          setImmediate(() => done(fails(reply) ? boom() : null, payload))
        },
        throwing: (_request: unknown, reply: FastifyReply, payload: unknown, done: (error: Error | null, payload: unknown) => void) => {
          if (fails(reply)) throw boom()
          done(null, payload)
        }
      }[kind] as never
      if (where === 'context') app.addHook('onSend', hook)
      if (where === 'last') app.addHook('onRoute', route => { route.onSend = [...[route.onSend ?? []].flat(), hook] })
      app.get('/', where === 'route' ? { onSend: hook } : {}, async request => { add(request); return 'x' })
    }
  })))
]

interface Answer {
  status: number
  body: string
  /** The body came to its end. */
  complete: boolean
  type: string | undefined
}

function get (url: string, method: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest(url, { method, agent: false }, response => {
      let body = ''
      response.setEncoding('utf8').on('data', (data: string) => { body += data })
      response.on('error', () => {})
      response.once('close', () => {
        resolve({ status: response.statusCode as number, body, complete: response.complete, type: response.headers['content-type'] })
      })
    })
    sent.once('error', reject)
    sent.setTimeout(ANSWER, () => sent.destroy(new Error(`no answer to ${url}`)))
    sent.end()
  })
}

function getHttp2 (url: string, method: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { origin, pathname } = new URL(url)
    const session = connectHttp2(origin)
    session.once('error', reject)
    const stream = session.request({ ':path': pathname, ':method': method })
    const answer: Answer = { status: 0, body: '', complete: false, type: undefined }
    stream.once('response', headers => {
      answer.status = headers[':status'] as number
      answer.type = headers['content-type']
    })
    stream.setEncoding('utf8').on('data', (data: string) => { answer.body += data })
    stream.once('end', () => { answer.complete = stream.rstCode === 0 })
    stream.on('error', () => {})
    stream.once('close', () => {
      session.destroy()
      resolve(answer)
    })
    stream.setTimeout(ANSWER, () => reject(new Error(`no answer to ${url}`)))
    stream.end()
  })
}

/** Milliseconds without an answer that mean that none will come. */
const ANSWER = 30_000

const KINDS = ['nothing', 'tasks', 'durable tasks'] as const
type Kind = typeof KINDS[number]

/** The tasks of one request, by what they run on. */
type Handles = Record<'success' | 'failure' | 'always' | 'predicate', TaskHandle>

const durable = defineTask('durable', async (_payload: unknown) => {})

function addTasks (request: FastifyRequest, kind: Kind): Handles {
  const { backgroundTasks: tasks } = request
  const add = (runOn: 'success' | 'failure' | 'always' | ((outcome: { failed: boolean }) => boolean)) =>
    kind === 'tasks' ? tasks.add({ runOn }, () => {}) : tasks.add({ runOn }, durable, null)
  return { success: add('success'), failure: add('failure'), always: add('always'), predicate: add(({ failed }) => failed) }
}

/** Which of a request's tasks have run, or will, once that is settled. */
async function whichRun (app: FastifyInstance, handles: Handles): Promise<string[]> {
  const runs: string[] = []
  for (const [name, handle] of Object.entries(handles) as Array<[string, TaskHandle]>) {
    const { id } = handle
    await until(`the end of a task in this process: it is ${handle.state}`, () => !['collecting', 'pending', 'running'].includes(handle.state))
    if (handle.state === 'completed') runs.push(name)
    // It waits there for a worker, unless it has been cancelled.
    else if (handle.state === 'stored' && (await app.backgroundTasks.find(id))?.state === 'pending') runs.push(name)
  }
  return runs
}

export interface Answering {
  /** Plugin options for an application; none for the process. */
  options: () => BackgroundTasksOptions
  http2?: boolean
}

/** Tries every way of answering. */
export function answering (t: Test, { options, http2 = false }: Answering): void {
  for (const hook of [false, true]) {
    t.test(hook ? 'beside an async onSend hook of a plugin' : 'alone', { skip: hook && noSecondReply }, async t => {
      const make = (): FastifyInstance => (http2 ? Fastify({ http2: true, logger: { level: 'silent' } }) : Fastify({ forceCloseConnections: true })) as unknown as FastifyInstance
      const addHook = (app: FastifyInstance) => { if (hook) app.addHook('onSend', async (_request, _reply, payload) => payload) }
      const plain = make()
      const app = make()
      await app.register(backgroundTasks, { ...options(), worker: false, tasks: [durable] })
      t.teardown(() => Promise.all([plain.close(), app.close()]))
      addHook(plain)
      addHook(app)
      const added = new Map<string, Handles>()
      for (const [index, { route }] of WAYS.entries()) {
        plain.register(async child => route(child as never, () => {}), { prefix: `/${index}` })
        for (const kind of KINDS) {
          const add: Add = request => { if (kind !== 'nothing') added.set(`${index} ${kind}`, addTasks(request, kind)) }
          app.register(async child => route(child as never, add), { prefix: `/${index}/${kind.replace(' ', '-')}` })
        }
      }
      const urls = { plain: (await listen(plain)).url, app: (await listen(app)).url }
      for (const [index, { name, ends, endsWithHook, method = 'GET', faulty = false, http1 = false, skip = false }] of WAYS.entries()) {
        if (http2 && http1) continue
        await t.test(name, { skip }, async t => {
          const send = (url: string) => (http2 ? getHttp2 : get)(url, method)
          const expected = await send(`${urls.plain}/${index}/`)
          for (const kind of KINDS) {
            const found = await send(`${urls.app}/${index}/${kind.replace(' ', '-')}/`)
            // On HTTP/2 the error of a second reply may destroy the first one: better is allowed.
            if (http2 && hook) expected.complete ||= found.complete
            if (!faulty) t.same(neutral(found), neutral(expected), kind)
            const handles = added.get(`${index} ${kind}`)
            if (kind === 'nothing') continue
            const failed = faulty ? found.status === 500 : (hook && endsWithHook ? endsWithHook : ends) === 'failure'
            t.same(await whichRun(app, handles!), failed ? ['failure', 'always', 'predicate'] : ['success', 'always'], `${kind}: which run`)
          }
        })
      }
    })
  }
}

/** Without the path of the route, which error pages may show. */
function neutral ({ body, ...others }: Answer): object {
  return { ...others, body: body.replace(/\/\d+(\/[a-z-]*)*/g, '/') }
}
