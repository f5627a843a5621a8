// The line to the server, and what the rest of the page shares.
export const $ = (id) => document.getElementById(id);
export const game = { setup: null, head: null, picture: null }; // head: what the newest frame was sent with

const token = new URLSearchParams(location.search).get('token');
let socket = null;

export function query(extra = {}) {
  return new URLSearchParams({ ...(token ? { token } : {}), session: sessionStorage.session ?? '', ...extra });
}

export function say(text, error = false) {
  $('notice').textContent = text;
  $('notice').classList.toggle('error', error);
}

export function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

// Connect, and again whenever the line breaks. heed(message) gets JSON, arrive(buffer) gets frames.
export function connect(heed, arrive) {
  socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/socket?${query()}`);
  socket.binaryType = 'arraybuffer';
  socket.onmessage = ({ data }) => (typeof data === 'string' ? heed(JSON.parse(data)) : arrive(data));
  socket.onclose = ({ code }) => {
    if (code === 4000) return say('This game goes on in another tab.');
    if (code === 4408) return say('Nobody touched a key for a while. Reload to go on.');
    if (code >= 4400) return code === 4409 || say('The server refused the connection.', true);
    say('Connection lost. Trying again …', true);
    setTimeout(() => connect(heed, arrive), 1000);
  };
}
