'use strict'

/*
 * The rows that are measured. `budget` is the limit of the median; a row without it only informs. Rows with the same `child` are
 * measured together. `times` multiplies the length of the slices of a row that varies more than the others.
 */
module.exports = [
  {
    id: 'no-task-logged',
    child: 'server',
    what: 'request with no task, logger on',
    against: 'the same application without the plugin',
    budget: 1.03
  },
  {
    id: 'no-task',
    child: 'server',
    what: 'request with no task, logger off',
    against: 'the same application without the plugin, with an empty onResponse hook',
    budget: 1.03
  },
  {
    id: 'one-task',
    child: 'server',
    what: 'request with one async task',
    against: 'by hand: an onResponse hook, an array on the request, try/catch and a log',
    budget: 1.05
  },
  {
    id: 'ten-tasks',
    child: 'server',
    what: 'request with ten async tasks',
    against: 'the same by hand',
    budget: 1.08
  },
  {
    id: 'awilix',
    child: 'server',
    what: 'awilix application, no task',
    against: '@fastify/awilix alone',
    budget: 1.07,
    // The containers are long-lived garbage, whose collection falls into any slice.
    times: 4
  },
  {
    id: 'async-context',
    child: 'server',
    separate: true,
    what: 'request with no task, asyncContext on',
    against: 'the plugin with asyncContext off, in another process',
    budget: null
  },
  {
    id: 'subscribed',
    child: 'server',
    separate: true,
    what: 'request with one async task, a subscriber to every diagnostics channel',
    against: 'the plugin without subscribers, in another process',
    budget: null
  },
  {
    id: 'otel',
    child: 'server',
    separate: true,
    what: 'request with one async task, traced and measured by OpenTelemetry',
    against: 'the plugin and the SDK of OpenTelemetry, without the instrumentation, in another process',
    budget: null
  },
  {
    id: 'runner',
    child: 'runner',
    what: '1,000,000 no-op tasks, 1,000 per collector: adding and running them',
    against: 'collecting { fn, args } in arrays and a bare `for … await fn(...args)` loop over them',
    budget: 2.2
  },
  {
    id: 'runner-alone',
    child: 'runner',
    what: 'the same, adding outside of the measured span',
    against: 'the same, collecting outside of it',
    budget: null
  },
  {
    id: 'runner-bare',
    child: 'runner',
    what: 'the same, adding and running',
    against: 'a bare `for … await fn()` loop that collects nothing',
    budget: null
  },
  {
    id: 'memory',
    child: 'memory',
    what: 'bytes of a pending task without arguments',
    against: 'nothing: it is no ratio',
    budget: 230
  }
]
