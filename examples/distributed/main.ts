import { build, type Options } from './app'

async function main (): Promise<void> {
  const role = (process.argv[2] ?? 'both') as Options['role']
  const app = await build({ role, connection: process.env.CONNECTION ?? 'redis://127.0.0.1:6379', logger: true })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  // A worker only waits for tasks; it could listen too, for health checks.
  if (role === 'worker') await app.ready()
  else await app.listen({ port: Number(process.env.PORT ?? 3000) })
}

main()
