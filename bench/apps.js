'use strict'

const { join } = require('node:path')

/*
 * The two applications of each row that is measured over HTTP: `plugin`, and `baseline`, which is without the plugin, or
 * with the same work written by hand.
 */

const PATH = '/send-notification/somebody'
const ROUTE = '/send-notification/:email'

/** `logger: true`, with its lines discarded. */
const logger = { level: 'info', stream: { write () {} } }

/** One turn of the microtask queue: the least work of an async task. */
async function sendNotification (counter, email, message) {
  await undefined
  counter.ended++
}

function addRoute (app) {
  app.get(ROUTE, async () => ({ message: 'Notification sent in the background' }))
}

async function plain (app) {
  addRoute(app)
}

/** With an empty `onResponse` hook: an application without a logger has one as soon as any plugin uses that hook. */
async function withEmptyHook (app) {
  app.addHook('onResponse', (_request, _reply, done) => { done() })
  addRoute(app)
}

async function registered (app, { backgroundTasks }) {
  await app.register(backgroundTasks)
  addRoute(app)
}

async function registeredWithContext (app, { backgroundTasks }) {
  await app.register(backgroundTasks, { asyncContext: true })
  addRoute(app)
}

/** With a subscriber to every channel. */
async function addingSubscribed (app, tools) {
  const { channel, tracingChannel } = require('node:diagnostics_channel')
  const ignore = () => {}
  for (const name of ['add', 'drop', 'retry', 'abandon', 'settle']) channel(`fastify-background-tasks.${name}`).subscribe(ignore)
  tracingChannel('fastify-background-tasks.run').subscribe({ start: ignore, end: ignore, asyncStart: ignore, asyncEnd: ignore, error: ignore })
  await adding(1)(app, tools)
}

/** The OpenTelemetry SDK makes and measures spans, and exports none. Fastify is not instrumented: the difference is the plugin's cost. */
function setUpOtel () {
  const { context, metrics, trace } = require('@opentelemetry/api')
  const { AsyncLocalStorageContextManager } = require('@opentelemetry/context-async-hooks')
  const { MeterProvider } = require('@opentelemetry/sdk-metrics')
  const { BasicTracerProvider } = require('@opentelemetry/sdk-trace-base')
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  trace.setGlobalTracerProvider(new BasicTracerProvider())
  metrics.setGlobalMeterProvider(new MeterProvider())
}

async function addingWithSdk (app, tools) {
  setUpOtel()
  await adding(1)(app, tools)
}

async function addingWithOtel (app, tools) {
  setUpOtel()
  const { BackgroundTasksInstrumentation } = require(join(tools.build, 'lib/observe/otel'))
  new BackgroundTasksInstrumentation().enable()
  await adding(1)(app, tools)
}

async function registerAwilix (app) {
  const { fastifyAwilixPlugin } = require('@fastify/awilix')
  const { createContainer } = require('awilix')
  // Its own container: by default both sides would share one.
  await app.register(fastifyAwilixPlugin, { container: createContainer({ injectionMode: 'PROXY' }) })
}

async function awilixAlone (app) {
  await registerAwilix(app)
  addRoute(app)
}

async function awilixRegistered (app, tools) {
  await registerAwilix(app)
  await registered(app, tools)
}

function adding (count) {
  return async function (app, { backgroundTasks, counter }) {
    await app.register(backgroundTasks)
    app.get(ROUTE, async request => {
      for (let i = 0; i < count; i++) {
        request.backgroundTasks.add(sendNotification, counter, request.params.email, 'some notification')
      }
      return { message: 'Notification sent in the background' }
    })
  }
}

function byHand (count) {
  return async function (app, { counter }) {
    app.decorateRequest('tasks', null)
    app.addHook('onResponse', (request, _reply, done) => {
      if (request.tasks !== null) runTasks(request)
      done()
    })
    app.get(ROUTE, async request => {
      for (let i = 0; i < count; i++) {
        request.tasks ??= []
        request.tasks.push({ fn: sendNotification, args: [counter, request.params.email, 'some notification'] })
      }
      return { message: 'Notification sent in the background' }
    })
  }
}

async function runTasks (request) {
  for (const { fn, args } of request.tasks) {
    try {
      await fn(...args)
    } catch (err) {
      request.log.error({ err, task: fn.name }, 'background task failed')
    }
  }
}

module.exports = {
  PATH,
  apps: {
    'no-task-logged': { options: { logger }, tasks: 0, plugin: registered, baseline: plain },
    'no-task': { tasks: 0, plugin: registered, baseline: withEmptyHook },
    'one-task': { tasks: 1, plugin: adding(1), baseline: byHand(1) },
    'ten-tasks': { tasks: 10, plugin: adding(10), baseline: byHand(10) },
    awilix: { tasks: 0, plugin: awilixRegistered, baseline: awilixAlone },
    'async-context': { tasks: 0, plugin: registeredWithContext, baseline: registered },
    subscribed: { tasks: 1, plugin: addingSubscribed, baseline: adding(1) },
    otel: { tasks: 1, plugin: addingWithOtel, baseline: addingWithSdk }
  }
}
