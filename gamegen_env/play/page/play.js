// The page: keys go up as what is held, frames come down. All state that matters is the server's.
const $ = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get('token');
const query = (extra = {}) => new URLSearchParams({ ...(token ? { token } : {}), session: sessionStorage.session ?? '', ...extra });

let socket, setup, head, picture, keymap, asked = null;
const held = new Set(), pads = new Set();

// --- What the player is told ---

function say(text, error = false) {
  $('notice').textContent = text;
  $('notice').classList.toggle('error', error);
}

// --- Connection ---

async function connect() {
  setup ??= await (await fetch(`setup?${query()}`)).json();
  if (!keymap) prepare();
  socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/socket?${query()}`);
  socket.binaryType = 'arraybuffer';
  socket.onmessage = ({ data }) => (typeof data === 'string' ? heed(JSON.parse(data)) : arrive(data));
  socket.onclose = ({ code }) => {
    if (code === 4000) return say('This game goes on in another tab.');
    if (code === 4408) return say('Nobody touched a key for a while. Reload to go on.');
    if (code >= 4400) return code === 4409 || say('The server refused the connection.', true);
    say('Connection lost. Trying again …', true);
    setTimeout(connect, 1000);
  };
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function heed(message) {
  if (message.error) return say(message.error, true);
  if (message.session) {
    sessionStorage.session = message.session;
    document.body.dataset.ready = 'yes';
    if (message.playing) send({ do: 'pause', on: false });
    else start(picture);
  }
}

function start(name) {
  picture = name;
  const temperature = Number($('temperature').value), rooms = [{ model: $('model').value, temperature }];
  if ($('other').value) rooms.push({ model: $('other').value, temperature });
  send({ do: 'start', picture, rooms, seed: Number($('seed').value), fit: $('fit').value });
  for (const image of $('gallery').children) image.classList.toggle('on', image.dataset.name === name);
  say('Press the keys.');
}

// --- Frames ---

// Only the newest frame is drawn, when the browser is about to paint; the server sends more once it has heard so.
const arrivals = [];
let newest = 0, waiting = null;
function arrive(buffer) {
  if (!waiting) requestAnimationFrame(() => { const latest = waiting; waiting = null; show(latest); });
  waiting = buffer;
}

function show(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  let at = 4 + size;
  $('second').hidden = head.views.length < 2;
  head.views.forEach((view, i) => {
    const n = view.side * view.side, rgb = new Uint8Array(buffer, at, 3 * n), image = new ImageData(view.side, view.side);
    for (let p = 0; p < n; p++) {
      image.data[4 * p] = rgb[3 * p];
      image.data[4 * p + 1] = rgb[3 * p + 1];
      image.data[4 * p + 2] = rgb[3 * p + 2];
      image.data[4 * p + 3] = 255;
    }
    at += 3 * n;
    $(`screen${i}`).getContext('2d').putImageData(image, 0, 0);
    overlay($(`over${i}`), view);
  });
  send({ do: 'drawn', n: head.n });
  figures();
}

function overlay(canvas, view) {
  const context = canvas.getContext('2d'), scale = canvas.width / view.side;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if ($('tiles').checked) {
    context.strokeStyle = '#7fd1ae';
    context.lineWidth = 2;
    for (const [x, y] of view.tiles) context.strokeRect(x * scale + 1, y * scale + 1, 4 * scale - 2, 4 * scale - 2);
    const [dx, dy] = view.scroll, middle = canvas.width / 2;
    if (dx || dy) {
      context.beginPath();
      context.moveTo(middle, middle);
      context.lineTo(middle + 4 * dx * scale, middle + 4 * dy * scale);
      context.stroke();
    }
  }
  if (view.over) {
    context.fillStyle = '#000a';
    context.fillRect(0, middleOf(canvas) - 40, canvas.width, 80);
    context.fillStyle = '#fff';
    context.font = '600 28px system-ui';
    context.textAlign = 'center';
    context.fillText('game over', canvas.width / 2, middleOf(canvas) + 2);
    context.font = '15px system-ui';
    context.fillText('R starts again, Backspace goes back', canvas.width / 2, middleOf(canvas) + 26);
  }
}
const middleOf = (canvas) => canvas.height / 2;

function figures() {
  const now = performance.now(), view = head.views[0];
  arrivals.push(now);
  while (arrivals[0] < now - 2000) arrivals.shift();
  $('fps').textContent = head.paused ? '–' : (arrivals.length / 2).toFixed(0);
  $('latency').textContent = head.step_ms.toFixed(1);
  if (head.pressed_at > newest) {
    newest = head.pressed_at;
    // The frame is on its way to the screen: one refresh later it can be seen.
    requestAnimationFrame((now) => { $('photon').textContent = (now - newest).toFixed(0); });
  }
  const told = [view.step, view.score, view.reward, view.tokens, view.scroll.join(', ')];
  [...$('inside').querySelectorAll('dd')].forEach((cell, i) => { cell.textContent = told[i]; });
  $('pause').classList.toggle('paused', head.paused);
  $('rate').value = head.rate;
  for (const place of $('places').children) place.classList.toggle('kept', head.places.includes(Number(place.textContent)));
  if (head.script) say(`Replaying, ${head.script} steps to go. Touch a key to take over.`);
  document.body.dataset.step = view.step;
}

// --- Keys ---

let sent = '';
function tell() {
  // A key may stand for another one: what is sent is what the server knows.
  const codes = [...new Set([...held, ...pads].map((code) => keymap[code] ?? code))].sort();
  for (const key of document.querySelectorAll('kbd')) key.classList.toggle('down', held.has(key.dataset.code) || pads.has(key.dataset.code));
  if (codes.join() === sent) return;
  sent = codes.join();
  send({ do: 'keys', held: codes, at: performance.now() });
}

const commands = {
  KeyP: () => $('pause').click(), Period: () => $('step').click(), KeyR: () => $('restart').click(), KeyF: () => $('full').click(),
};

addEventListener('keydown', (event) => {
  if (asked) return remap(event);
  if (event.target.matches('input, select') || event.ctrlKey || event.metaKey || event.altKey) return;
  const digit = event.code.match(/^Digit([1-9])$/);
  if (event.code === 'Backspace') rewind(true);
  else if (digit) send({ do: event.shiftKey ? 'save' : 'load', place: Number(digit[1]) });
  else if (commands[event.code] && !event.repeat) commands[event.code]();
  else if (!event.repeat) { held.add(event.code); tell(); }
  if (event.code !== 'Tab') event.preventDefault();
});
addEventListener('keyup', (event) => {
  if (event.code === 'Backspace') rewind(false);
  held.delete(event.code);
  tell();
});
function release() { held.clear(); pads.clear(); rewind(false); tell(); }
addEventListener('blur', release);
document.addEventListener('visibilitychange', () => document.hidden && release());

let rewinding = false;
function rewind(on) {
  if (on === rewinding) return;
  rewinding = on;
  $('rewind').classList.toggle('on', on);
  send({ do: 'rewind', on });
}

function legend() {
  const roles = {};
  for (const [code, role] of Object.entries(setup.keys)) (roles[role] ??= []).push(code);
  const spelled = (code) => code.replace(/^(Key|Digit|Arrow)/, '').replace('Up', '↑').replace('Down', '↓').replace('Left', '←').replace('Right', '→');
  $('legend').replaceChildren(...Object.entries(roles).map(([role, codes]) => {
    const row = document.createElement('tr'), keys = document.createElement('td');
    row.innerHTML = `<td>${role.toLowerCase()}</td>`;
    for (const code of codes) {
      const shown = Object.keys(keymap).find((from) => keymap[from] === code) ?? code, key = document.createElement('kbd');
      key.textContent = spelled(shown);
      key.dataset.code = shown;
      key.onclick = () => { asked = code; key.classList.add('asked'); say(`Press the key that should be ${role.toLowerCase()}.`); };
      keys.append(key);
    }
    row.append(keys);
    return row;
  }));
}

function remap(event) {
  event.preventDefault();
  for (const from of Object.keys(keymap)) if (keymap[from] === asked) delete keymap[from];
  if (event.code !== 'Escape' && event.code !== asked) { keymap[asked] ??= ''; keymap[event.code] = asked; }
  if (keymap[asked] === '' && !Object.values(keymap).includes(asked)) delete keymap[asked];
  localStorage.keymap = JSON.stringify(keymap);
  asked = null;
  say('Press the keys.');
  legend();
}

// --- Gamepad and touch ---

function pollGamepads() {
  const now = new Set();
  for (const gamepad of navigator.getGamepads?.() ?? []) {
    if (!gamepad) continue;
    const [x = 0, y = 0] = gamepad.axes, pressed = (i) => gamepad.buttons[i]?.pressed;
    if (x < -0.5 || pressed(14)) now.add('ArrowLeft');
    if (x > 0.5 || pressed(15)) now.add('ArrowRight');
    if (y < -0.5 || pressed(12)) now.add('ArrowUp');
    if (y > 0.5 || pressed(13)) now.add('ArrowDown');
    if ([0, 1, 2, 3].some(pressed)) now.add('Space');
  }
  if (connected) { pads.clear(); now.forEach((code) => pads.add(code)); tell(); }
  requestAnimationFrame(pollGamepads);
}
let connected = false;
addEventListener('gamepadconnected', ({ gamepad }) => { connected = true; say(`${gamepad.id} is connected.`); requestAnimationFrame(pollGamepads); }, { once: true });
if (matchMedia('(pointer: coarse)').matches) $('pad').hidden = false;
for (const button of document.querySelectorAll('[data-code]')) {
  if (button.closest('#pad')) {
    button.onpointerdown = (event) => { event.preventDefault(); held.add(button.dataset.code); tell(); };
    for (const end of ['pointerup', 'pointerleave', 'pointercancel']) button.addEventListener(end, () => { held.delete(button.dataset.code); tell(); });
  }
}

// --- Pictures in, games and films out ---

async function upload(file) {
  const kind = file.name?.endsWith('.gamegen') ? 'recording' : 'picture';
  say('One moment …');
  const answer = await (await fetch(`${kind}?${query()}`, { method: 'POST', body: file })).json();
  if (answer.error) return say(answer.error, true);
  if (kind === 'picture') {
    const image = document.createElement('img');
    image.src = URL.createObjectURL(file);
    image.dataset.name = answer.name;
    image.onclick = () => start(answer.name);
    $('gallery').prepend(image);
  }
  start(answer.name);
}
addEventListener('dragover', (event) => { event.preventDefault(); $('drop').hidden = false; });
addEventListener('dragleave', (event) => { if (!event.relatedTarget) $('drop').hidden = true; });
addEventListener('drop', (event) => { event.preventDefault(); $('drop').hidden = true; if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]); });
addEventListener('paste', (event) => { const file = event.clipboardData.files[0]; if (file) upload(file); });
$('file').onchange = ({ target }) => { if (target.files[0]) upload(target.files[0]); target.value = ''; };

$('camera').hidden = !navigator.mediaDevices?.getUserMedia;
let film = null;
$('camera').onclick = async () => {
  try {
    film = await navigator.mediaDevices.getUserMedia({ video: { width: 480, height: 480 } });
    $('video').srcObject = film;
    $('snapshot').showModal();
  } catch (error) { say(`No camera: ${error.message}`, true); }
};
$('snapshot').onclose = () => film?.getTracks().forEach((track) => track.stop());
$('cancel').onclick = () => $('snapshot').close();
$('shoot').onclick = () => {
  const canvas = document.createElement('canvas'), video = $('video');
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext('2d').drawImage(video, 0, 0);
  canvas.toBlob(upload, 'image/png');
  $('snapshot').close();
};

async function save(path, name) {
  const answer = await fetch(`${path}?${query()}`);
  if (!answer.ok) return say((await answer.json()).error, true);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
}
$('record').onclick = () => save('recording', 'game.gamegen');
$('film').onclick = () => save('film', 'game.gif');

// --- Controls ---

$('pause').onclick = () => send({ do: 'pause', on: !head?.paused });
$('step').onclick = () => send({ do: 'step' });
$('restart').onclick = () => start(picture);
$('full').onclick = () => (document.fullscreenElement ? document.exitFullscreen() : document.querySelector('.screens').requestFullscreen());
$('rewind').onpointerdown = () => rewind(true);
for (const end of ['pointerup', 'pointerleave']) $('rewind').addEventListener(end, () => rewind(false));
$('rate').onchange = ({ target }) => { send({ do: 'rate', fps: Number(target.value) }); target.blur(); };
for (const id of ['model', 'other', 'temperature', 'seed', 'fit']) $(id).onchange = ({ target }) => { start(picture); target.blur(); };
$('tiles').onchange = () => head?.views.forEach((view, i) => overlay($(`over${i}`), view));

function prepare() {
  keymap = JSON.parse(localStorage.keymap ?? '{}');
  picture = setup.picture;
  const option = (value, text = value) => new Option(text, value);
  $('model').replaceChildren(...setup.models.map((name) => option(name)));
  $('other').replaceChildren(option('', 'nothing'), ...setup.models.map((name) => option(name)));
  $('rate').replaceChildren(...setup.rates.map((rate) => option(rate, rate ? `${rate} fps` : 'as fast as it goes')));
  $('temperature').value = setup.temperature;
  $('gallery').replaceChildren(...setup.gallery.map((name) => {
    const image = document.createElement('img');
    image.src = `gallery/${name}.png`;
    image.title = image.alt = image.dataset.name = name;
    image.onclick = () => start(name);
    return image;
  }));
  for (let place = 1; place <= 9; place++) {
    const button = document.createElement('button');
    button.textContent = place;
    button.onclick = (event) => send({ do: event.shiftKey ? 'save' : 'load', place });
    $('places').append(button);
  }
  legend();
}

connect();
