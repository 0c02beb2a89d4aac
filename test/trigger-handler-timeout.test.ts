import { test } from 'tap'
import { createApp, listen, settled, signal } from './support/server'
import { noHandlerTimeout } from './support/versions'

test('handlerTimeout answers 503: the tasks collected before it are dropped, and those the handler adds later run', { skip: noHandlerTimeout }, async t => {
  const { app } = await createApp(t)
  const seen: string[] = []
  const answered = signal()
  app.get('/', { handlerTimeout: 20 }, async request => {
    request.backgroundTasks.add(() => { seen.push('success') })
    request.backgroundTasks.add({ runOn: 'failure' }, () => { seen.push('failure') })
    await answered.promise
    request.backgroundTasks.add(() => { seen.push('late') })
    return 'too late'
  })
  const { url } = await listen(app)
  t.equal((await fetch(url)).status, 503)
  await settled(app, { dropped: 1, completed: 1 })
  answered.resolve()
  await settled(app, { dropped: 1, completed: 2 })
  t.same(seen, ['failure', 'late'])
})
