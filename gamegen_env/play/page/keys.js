// Keys, gamepads and the touch pad: what goes up is always all that is held.
import { $, game, say, send } from './link.js';

const held = new Set(), pads = new Set();
const keymap = JSON.parse(localStorage.keymap ?? '{}'); // key on this keyboard -> key that the server knows
let asked = null; // the server's key that the next key pressed will stand for
let sent = '';

function tell() {
  const codes = [...new Set([...held, ...pads].map((code) => keymap[code] ?? code))].sort();
  for (const key of document.querySelectorAll('kbd[data-code]')) key.classList.toggle('down', held.has(key.dataset.code) || pads.has(key.dataset.code));
  if (codes.join() === sent) return;
  sent = codes.join();
  send({ do: 'keys', held: codes, at: performance.now() });
}

const commands = { KeyP: 'pause', Period: 'step', KeyR: 'restart', KeyF: 'full', KeyG: 'agent' };

addEventListener('keydown', (event) => {
  if (asked) return remap(event);
  if (event.target.matches('input, select') || event.ctrlKey || event.metaKey || event.altKey) return;
  const digit = event.code.match(/^Digit([1-9])$/);
  if (event.code === 'Backspace') rewind(true);
  else if (digit) send({ do: event.shiftKey ? 'save' : 'load', place: Number(digit[1]) });
  else if (!event.repeat && commands[event.code] && !keymap[event.code]) $(commands[event.code]).click();
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

export function legend() {
  const roles = {};
  for (const [code, role] of Object.entries(game.setup.keys)) (roles[role] ??= []).push(code);
  const own = Object.entries(roles).map(([role, codes]) => entry(role.toLowerCase(), ...codes.map((code) => {
    const shown = Object.keys(keymap).find((from) => keymap[from] === code) ?? code, key = document.createElement('kbd');
    key.textContent = spelled(shown);
    key.dataset.code = shown;
    key.onclick = () => { asked = code; key.classList.add('asked'); say(`Press the key that should be ${role.toLowerCase()}; Escape for the one it was.`); };
    return key;
  })));
  const fixed = { Backspace: 'back in time', KeyP: 'pause', Period: 'step', KeyR: 'again', ...(game.setup.agent ? { KeyG: 'agent' } : {}) };
  const others = Object.entries(fixed).map(([code, name]) => {
    const key = document.createElement('kbd');
    key.textContent = spelled(code);
    return entry(name, key);
  });
  $('legend').replaceChildren(...own, ...others);
}

function remap(event) {
  event.preventDefault();
  for (const from of Object.keys(keymap)) if (keymap[from] === asked) delete keymap[from];
  if (event.code !== 'Escape' && event.code !== asked) keymap[event.code] = asked;
  localStorage.keymap = JSON.stringify(keymap);
  asked = null;
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
  button.onpointerdown = (event) => { event.preventDefault(); held.add(button.dataset.code); tell(); };
  for (const end of ['pointerup', 'pointerleave', 'pointercancel']) button.addEventListener(end, () => { held.delete(button.dataset.code); tell(); });
}
$('rewind').onpointerdown = () => rewind(true);
for (const end of ['pointerup', 'pointerleave', 'pointercancel']) $('rewind').addEventListener(end, () => rewind(false));
