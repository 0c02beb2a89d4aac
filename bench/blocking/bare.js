'use strict'

const { workerData } = require('node:worker_threads')
const work = require('./work')

/* A thread that computes, and neither is told nor says anything. */

while (true) work(workerData)
