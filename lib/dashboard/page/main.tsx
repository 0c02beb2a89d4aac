import { render } from 'preact'
import { App } from './app'
import { server } from './server'
import './style.css'

server.start()
render(<App />, document.getElementById('app') as HTMLElement)
