import { test } from 'tap'
import { answering } from './support/answering'
import { FindingBackend } from './support/stub-backend'

// The table of answering.test.ts, on HTTP/2.

test('without a backend', t => {
  answering(t, { http2: true, options: () => ({}) })
  t.end()
})

test('with a backend', t => {
  answering(t, { http2: true, options: () => ({ backend: new FindingBackend() }) })
  t.end()
})
