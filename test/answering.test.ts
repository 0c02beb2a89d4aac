import { test } from 'tap'
import { answering } from './support/answering'
import { FindingBackend } from './support/stub-backend'

// However a handler answers, a task changes nothing about what the client gets, and runs as its `runOn` says.

test('without a backend', t => {
  answering(t, { options: () => ({}) })
  t.end()
})

test('with a backend', t => {
  answering(t, { options: () => ({ backend: new FindingBackend() }) })
  t.end()
})

test('with a backend that takes its time', t => {
  const backend = () => {
    const backend = new FindingBackend()
    backend.onStore = async tasks => {
      await new Promise(resolve => { setTimeout(resolve, 10) })
      return tasks.map(({ id }) => id)
    }
    return backend
  }
  answering(t, { options: () => ({ backend: backend() }) })
  t.end()
})
