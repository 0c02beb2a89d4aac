'use strict'

/*
 * What is measured. `budget` is the most that the median may be; a row without one informs. Rows with the same `child`
 * are measured together.
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
    against: 'the same application without the plugin',
    budget: 1.07
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
    budget: 1.10
  },
  {
    id: 'awilix',
    child: 'server',
    what: 'awilix application, no task',
    against: '@fastify/awilix alone',
    budget: 1.07
  },
  {
    id: 'async-context',
    child: 'server',
    what: 'request with no task, asyncContext on',
    against: 'the plugin with asyncContext off',
    budget: null
  },
  {
    id: 'runner',
    child: 'runner',
    what: '1,000,000 no-op tasks, 1,000 per collector: running them',
    against: 'a bare `for … await fn()` loop',
    budget: 2.5
  },
  {
    id: 'runner-add',
    child: 'runner',
    what: 'adding and running them',
    against: 'collecting { fn, args } in arrays, then the bare loop',
    budget: null
  },
  {
    id: 'runner-add-bare',
    child: 'runner',
    what: 'adding and running them',
    against: 'the bare loop, which collects nothing',
    budget: null
  },
  {
    id: 'memory',
    child: 'memory',
    what: 'bytes of a pending task without arguments',
    against: '–',
    budget: 300
  }
]
