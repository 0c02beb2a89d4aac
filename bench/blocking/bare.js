'use strict'

const { workerData } = require('node:worker_threads')
const work = require('./work')

/* A thread that computes, and neither receives nor sends messages. */

while (true) work(workerData)
