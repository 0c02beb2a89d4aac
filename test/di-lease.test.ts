import type { FastifyRequest } from 'fastify'
import { test } from 'tap'
import { createDiApp, type Handle } from './support/awilix'
import { listen, settled, signal, turns } from './support/server'

const handleOf = (request: FastifyRequest) => request.diScope.resolve<Handle>('handle')

test('the scope is disposed once, after the last task, which can use what the handler has resolved', async t => {
  const { app, handles } = await createDiApp(t)
  const seen: string[] = []
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(async () => {
      await turns(3)
      seen.push(handle.use())
    })
    request.backgroundTasks.add(() => { seen.push(handleOf(request).use()) })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 2 })
  t.same(seen, ['used', 'used'])
  t.same(handles.map(handle => handle.closed), [1], 'one handle for the handler and its tasks')
})

test('services that only a task resolves, from the scope or a service of it, are disposed too', async t => {
  const { app, handles } = await createDiApp(t)
  app.get('/', async request => {
    request.backgroundTasks.add(async () => {
      await turns(3)
      handleOf(request).use()
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('a task that is tried again keeps the scope until its last attempt, and the tasks behind it do not wait', async t => {
  const { app, handles } = await createDiApp(t)
  const seen: string[] = []
  app.get('/', async request => {
    const handle = handleOf(request)
    let attempt = 0
    request.backgroundTasks.add({ attempts: 3, backoff: 5 }, () => {
      seen.push(`attempt ${++attempt}, ${handle.use()}`)
      if (attempt < 3) throw new Error('not yet')
    })
    request.backgroundTasks.add(() => { seen.push('other') })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 2, retried: 2 })
  t.same(seen, ['attempt 1, used', 'other', 'attempt 2, used', 'attempt 3, used'])
  t.same(handles.map(handle => handle.closed), [1])
})

test('a delayed task keeps it too', async t => {
  const { app, handles } = await createDiApp(t)
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add({ delay: 20 }, () => handle.use())
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  t.same(handles.map(handle => handle.closed), [0])
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('tasks that fail, are dropped or cancelled give it back as well', async t => {
  const { app, handles } = await createDiApp(t)
  app.get('/failing', async request => {
    handleOf(request)
    request.backgroundTasks.add(() => { throw new Error('broken') })
    return 'x'
  })
  app.get('/dropped', async request => {
    handleOf(request)
    request.backgroundTasks.add(() => {})
    throw new Error('broken')
  })
  app.get('/cancelled', async request => {
    handleOf(request)
    await request.backgroundTasks.add(() => {}).cancel()
    return 'x'
  })
  const { url } = await listen(app)
  for (const path of ['/failing', '/dropped', '/cancelled']) await fetch(url + path)
  await settled(app, { failed: 1, dropped: 1, cancelled: 1 })
  t.same(handles.map(handle => handle.closed), [1, 1, 1])
})

test('while tasks run, dispose() resolves at once: no onResponse hook and no log line waits', async t => {
  const { app, log, handles } = await createDiApp(t)
  const { promise: hookCalled, resolve: callHook } = signal()
  const { promise: release, resolve: finish } = signal()
  app.addHook('onResponse', async request => {
    await request.diScope.dispose()
    callHook()
  })
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(async () => {
      await release
      handle.use()
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await hookCalled
  await turns()
  t.ok(log.find(line => line.msg === 'request completed'))
  t.equal(app.backgroundTasks.stats().running, 1)
  t.equal(handles[0]!.closed, 0)
  finish()
  await settled(app, { completed: 1 })
  t.equal(handles[0]!.closed, 1)
})

test('released tasks that end before the response leave the scope to the handler', async t => {
  const { app, handles } = await createDiApp(t)
  app.get('/', async request => {
    const handle = handleOf(request)
    const task = request.backgroundTasks.add(() => handle.use())
    request.backgroundTasks.release()
    t.equal(await task.settled(), 'completed')
    await turns()
    return handle.use()
  })
  const { url } = await listen(app)
  t.equal(await (await fetch(url)).text(), 'used')
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('an earlier onResponse hook that is slower than the tasks still has the scope', async t => {
  const { promise: release, resolve: finish } = signal()
  const { app, handles } = await createDiApp(t, {}, {
    before: app => {
      app.addHook('onResponse', async request => {
        await release
        request.log.info(handleOf(request).use())
      })
    }
  })
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(() => handle.use())
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [0])
  finish()
  await turns()
  t.same(handles.map(handle => handle.closed), [1])
})

test('requests without tasks dispose as before, at their response', async t => {
  const { app, handles } = await createDiApp(t)
  app.get('/resolves', async request => {
    request.diScope.resolve('backgroundTasks')
    return handleOf(request).use()
  })
  app.get('/plain', async request => handleOf(request).use())
  const { url } = await listen(app)
  await fetch(`${url}/resolves`)
  await fetch(`${url}/plain`)
  await turns()
  t.same(handles.map(handle => handle.closed), [1, 1])
})

test('who disposes scopes on their own, with `disposeOnResponse: false`, goes on doing so', async t => {
  const { app, handles } = await createDiApp(t, {}, { disposeOnResponse: false })
  const scopes: Array<FastifyRequest['diScope']> = []
  app.get('/', async request => {
    const handle = handleOf(request)
    scopes.push(request.diScope)
    request.backgroundTasks.add(() => handle.use())
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 1 })
  t.same(handles.map(handle => handle.closed), [0])
  await scopes[0]!.dispose()
  t.same(handles.map(handle => handle.closed), [1])
})

test('a dispose() of their own during the tasks comes after them', async t => {
  const { app, handles } = await createDiApp(t, {}, { disposeOnResponse: false })
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(async () => {
      await request.diScope.dispose()
      await request.diScope.dispose()
      handle.use()
    })
    request.backgroundTasks.add(() => handle.use())
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { completed: 2 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('one request that waits does not hold the scopes of others', async t => {
  const { app, handles } = await createDiApp(t)
  const { promise: release, resolve: finish } = signal()
  app.get<{ Params: { id: string } }>('/:id', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(async () => {
      if (request.params.id === 'slow') await release
      handle.use()
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(`${url}/slow`)
  await fetch(`${url}/quick`)
  await settled(app, { completed: 1, running: 1 })
  t.same(handles.map(handle => handle.closed), [0, 1])
  finish()
  await settled(app, { completed: 2 })
  t.same(handles.map(handle => handle.closed), [1, 1])
})

test('a task that has timed out keeps the scope until its function has really ended', async t => {
  const { app, handles } = await createDiApp(t)
  const { promise: release, resolve: finish } = signal()
  const { promise: ended, resolve: end } = signal<string>()
  app.get('/', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add({ timeout: 5 }, async () => {
      await release
      end(handle.use())
    })
    request.backgroundTasks.add(() => handle.use())
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(url)
  await settled(app, { failed: 1, completed: 1, abandoned: 1 })
  t.same(handles.map(handle => handle.closed), [0])
  finish()
  t.equal(await ended, 'used')
  await settled(app, { failed: 1, completed: 1 })
  t.same(handles.map(handle => handle.closed), [1])
})

test('a task that is cancelled while it runs does so too, and a task that is abandoned at close', async t => {
  const { app, handles } = await createDiApp(t, { closeTimeout: 20 })
  const { promise: release, resolve: finish } = signal()
  const uses: string[] = []
  app.get('/cancelled', async request => {
    const handle = handleOf(request)
    const task = request.backgroundTasks.add({ signal: true }, async () => {
      await release
      uses.push(handle.use())
    })
    request.backgroundTasks.add(async () => { await task.cancel() })
    setImmediate(async function cancel () {
      if (task.state === 'running') await task.cancel()
      else setImmediate(cancel)
    })
    return 'x'
  })
  app.get('/left', async request => {
    const handle = handleOf(request)
    request.backgroundTasks.add(async () => {
      await release
      uses.push(handle.use())
    })
    return 'x'
  })
  const { url } = await listen(app)
  await fetch(`${url}/cancelled`)
  await fetch(`${url}/left`)
  await settled(app, { completed: 1, cancelled: 1, running: 1, abandoned: 1 })
  t.same(handles.map(handle => handle.closed), [0, 0])
  await app.close()
  t.same(handles.map(handle => handle.closed), [0, 0])
  finish()
  await turns()
  t.same(uses, ['used', 'used'])
  t.same(handles.map(handle => handle.closed), [1, 1])
})
