// Keys, gamepads and the touch pad: what goes up is always all that is held.
import { $, game, say, send } from './link.js';

// Held keys of this keyboard; what the pads hold, already as keys that the server knows.
const held = new Set(), touched = new Set(), pads = new Set();
let bindings = {}; // key on this keyboard -> key that the server knows; each of the server's keys once
let asked = null; // the server's key that the next key pressed will stand for
let sent = '';

function tell() {
  const codes = [...new Set([...[...held].map((code) => bindings[code]), ...touched, ...pads])].sort();
  for (const key of document.querySelectorAll('kbd[data-code]')) key.classList.toggle('down', codes.includes(bindings[key.dataset.code]));
  if (codes.join() === sent) return;
  sent = codes.join();
  send({ do: 'keys', held: codes, at: performance.now() });
}

// A new line to the server: it knows nothing of what is held.
export function renew() {
  sent = '';
  rewinding = false;
  tell();
}

const commands = { KeyP: 'pause', Period: 'step', KeyR: 'restart', KeyF: 'full', KeyG: 'agent' };
const fixed = (code) => code === 'Backspace' || code in commands || /^(Digit[1-9]|Tab|Enter|Escape|F\d+|(Meta|Control|Alt|Shift)(Left|Right))$/.test(code);

addEventListener('keydown', (event) => {
  if (asked) return remap(event);
  if (event.target.matches('input, select') || event.ctrlKey || event.metaKey || event.altKey || $('snapshot').open) return;
  const digit = event.code.match(/^Digit([1-9])$/);
  if (event.code === 'Backspace') rewind(true);
  else if (digit && !event.repeat) send({ do: event.shiftKey ? 'save' : 'load', place: Number(digit[1]) });
  else if (commands[event.code] && !event.repeat) $(commands[event.code]).click();
  else if (bindings[event.code] && !event.repeat) { held.add(event.code); tell(); }
  // All other keys are the browser's: F5, Tab, Enter on a button.
  if (event.code === 'Backspace' || digit || commands[event.code] || bindings[event.code]) event.preventDefault();
});
addEventListener('keyup', (event) => {
  if (event.code.startsWith('Meta')) return release(); // no system tells of keys that go up while it is held
  if (event.code === 'Backspace') rewind(false);
  held.delete(event.code);
  tell();
});
function release() { held.clear(); touched.clear(); pads.clear(); rewind(false); tell(); }
addEventListener('blur', release);

// A page that nobody sees does not play on.
let resting = false;
document.addEventListener('visibilitychange', () => {
  if (document.hidden) release();
  if (document.hidden && game.head && !game.head.paused) { resting = true; send({ do: 'pause', on: true }); }
  if (!document.hidden && resting) { resting = false; send({ do: 'pause', on: false }); }
});

let rewinding = false;
function rewind(on) {
  if (on === rewinding) return;
  rewinding = on;
  $('rewind').classList.toggle('on', on);
  send({ do: 'rewind', on });
}

// --- What the keys are, and how to change them ---

const SHOWN = { Up: '↑', Down: '↓', Left: '←', Right: '→', Backspace: '⌫', Period: '.' };
const spelled = (code) => { const name = code.replace(/^(Key|Digit|Arrow)/, ''); return SHOWN[name] ?? name.toLowerCase(); };

function entry(name, ...keys) {
  const item = document.createElement('span');
  item.append(...keys, name);
  return item;
}

// What was chosen in an earlier visit, if it still fits the server's keys.
function remembered() {
  const own = Object.keys(game.setup.keys);
  try {
    const saved = JSON.parse(localStorage.bindings), targets = Object.values(saved);
    if (targets.length === own.length && own.every((code) => targets.includes(code)) && !Object.keys(saved).some(fixed)) return saved;
  } catch { /* nothing was saved, or nothing that we wrote */ }
  return Object.fromEntries(own.map((code) => [code, code]));
}

export function legend() {
  bindings = remembered();
  const roles = {};
  for (const [code, role] of Object.entries(game.setup.keys)) (roles[role] ??= []).push(code);
  const own = Object.entries(roles).map(([role, codes]) => entry(role.toLowerCase(), ...codes.map((code) => {
    const shown = Object.keys(bindings).find((from) => bindings[from] === code), key = document.createElement('kbd');
    key.textContent = spelled(shown);
    key.dataset.code = shown;
    key.onclick = () => { asked = code; key.classList.add('asked'); say(`Press the key that should be ${role.toLowerCase()}; Escape leaves it.`); };
    return key;
  })));
  const others = Object.entries({ Backspace: 'back in time', KeyP: 'pause', Period: 'step', KeyR: 'again', ...(game.setup.agent ? { KeyG: 'agent' } : {}) });
  const reset = entry('reset');
  reset.className = 'reset';
  reset.hidden = Object.entries(bindings).every(([from, to]) => from === to);
  reset.onclick = () => { localStorage.removeItem('bindings'); release(); legend(); };
  $('legend').replaceChildren(...own, ...others.map(([code, name]) => {
    const key = document.createElement('kbd');
    key.textContent = spelled(code);
    return entry(name, key);
  }), reset);
}

// The key pressed stands for the one asked for; if it stood for another one, the two change places.
function remap(event) {
  event.preventDefault();
  if (event.code !== 'Escape' && fixed(event.code)) return say(`${spelled(event.code)} has another use. Press another key, or Escape.`, true);
  if (event.code !== 'Escape') {
    const before = Object.keys(bindings).find((from) => bindings[from] === asked), taken = bindings[event.code];
    delete bindings[before];
    if (taken && taken !== asked) bindings[before] = taken;
    bindings[event.code] = asked;
    localStorage.bindings = JSON.stringify(bindings);
  }
  asked = null;
  release();
  say('Press the keys.');
  legend();
}

// --- Gamepad and touch ---

function poll() {
  pads.clear();
  for (const gamepad of navigator.getGamepads()) {
    if (!gamepad) continue;
    const [x = 0, y = 0] = gamepad.axes, pressed = (i) => gamepad.buttons[i]?.pressed;
    if (x < -0.5 || pressed(14)) pads.add('ArrowLeft');
    if (x > 0.5 || pressed(15)) pads.add('ArrowRight');
    if (y < -0.5 || pressed(12)) pads.add('ArrowUp');
    if (y > 0.5 || pressed(13)) pads.add('ArrowDown');
    if ([0, 1, 2, 3].some(pressed)) pads.add('Space');
  }
  tell();
  requestAnimationFrame(poll);
}
addEventListener('gamepadconnected', ({ gamepad }) => { say(`${gamepad.id} is connected.`); requestAnimationFrame(poll); }, { once: true });

if (matchMedia('(pointer: coarse)').matches) $('pad').hidden = false;
for (const button of document.querySelectorAll('#pad [data-code]')) {
  button.onpointerdown = (event) => { event.preventDefault(); touched.add(button.dataset.code); tell(); };
  for (const end of ['pointerup', 'pointerleave', 'pointercancel']) button.addEventListener(end, () => { touched.delete(button.dataset.code); tell(); });
}
$('rewind').onpointerdown = () => rewind(true);
for (const end of ['pointerup', 'pointerleave', 'pointercancel']) $('rewind').addEventListener(end, () => rewind(false));
