// The page: keys go up as what is held, frames come down. All state that matters is the server's.
import { intake, save } from './intake.js';
import { legend, renew } from './keys.js';
import { $, connect, game, query, say, send } from './link.js';
import { arrive, overlay } from './screen.js';

// What this tab has chosen, kept through reloads as the game itself is.
const CHOSEN = ['model', 'other', 'temperature', 'seed', 'fit'];

function remember() {
  sessionStorage.chosen = JSON.stringify({ picture: game.picture, ...Object.fromEntries(CHOSEN.map((id) => [id, $(id).value])) });
}

function recall() {
  const chosen = JSON.parse(sessionStorage.chosen ?? '{}');
  for (const id of CHOSEN) {
    const fits = $(id).tagName !== 'SELECT' || [...$(id).options].some((option) => option.value === chosen[id]);
    if (id in chosen && fits) $(id).value = chosen[id];
  }
  game.picture = chosen.picture ?? game.setup.picture;
}

function heed(message) {
  if (message.error) return say(message.error, true);
  sessionStorage.session = message.session;
  document.body.dataset.ready = 'yes';
  for (const name of message.uploads) if (!thumbnail(name)) $('gallery').prepend(picture(name, 'your picture'));
  renew();
  if (message.playing) { send({ do: 'pause', on: false }); mark(); }
  // A server that was started anew does not know what was uploaded to the one before.
  else start(game.picture.startsWith('upload-') && !message.uploads.includes(game.picture) ? game.setup.picture : game.picture);
}

const thumbnail = (name) => [...$('gallery').children].find((image) => image.dataset.name === name);

function picture(name, title = name) {
  const image = document.createElement('img');
  image.src = `gallery/${encodeURIComponent(name)}.png?${query()}`;
  image.title = image.alt = title;
  image.dataset.name = name;
  image.onclick = () => start(name);
  return image;
}

function mark() {
  for (const image of $('gallery').children) image.classList.toggle('on', image.dataset.name === game.picture);
}

function start(name) {
  game.picture = name;
  const temperature = Number($('temperature').value), rooms = [{ model: $('model').value, temperature }];
  if ($('other').value) rooms.push({ model: $('other').value, temperature });
  send({ do: 'start', picture: name, rooms, seed: Number($('seed').value), fit: $('fit').value });
  mark();
  remember();
  say('Press the keys.');
}

$('pause').onclick = () => send({ do: 'pause', on: !game.head?.paused });
$('step').onclick = () => send({ do: 'step' });
$('restart').onclick = () => start(game.picture);
$('agent').onclick = () => game.setup.agent && send({ do: 'agent', on: !game.head?.agent });
$('full').onclick = () => (document.fullscreenElement ? document.exitFullscreen() : document.querySelector('.screens').requestFullscreen());
$('rate').onchange = ({ target }) => { send({ do: 'rate', fps: Number(target.value) }); target.blur(); };
for (const id of CHOSEN) $(id).onchange = ({ target }) => { start(game.picture); target.blur(); };
$('tiles').onchange = ({ target }) => { game.head?.views.forEach((view, i) => overlay($(`over${i}`), view)); target.blur(); };
$('record').onclick = () => save('recording', 'game.gamegen');
// A button that keeps the focus would be pressed again by Space.
addEventListener('click', ({ target }) => target.closest('button')?.blur());

function prepare(setup) {
  game.setup = setup;
  const option = (value, text = value) => new Option(text, value);
  $('model').replaceChildren(...setup.models.map((name) => option(name)));
  $('other').replaceChildren(option('', 'nothing'), ...setup.models.map((name) => option(name)));
  $('rate').replaceChildren(...setup.rates.map((rate) => option(rate, rate ? `${rate} fps` : 'no limit')));
  $('temperature').value = setup.temperature;
  $('agent').hidden = !setup.agent;
  $('gallery').replaceChildren(...setup.gallery.map((name) => picture(name)));
  $('films').replaceChildren(...setup.films.map((kind) => {
    const button = document.createElement('button');
    button.textContent = kind === 'gif' ? 'GIF' : 'MP4';
    button.onclick = () => save('film', `game.${kind}`, { kind });
    return button;
  }));
  for (let place = 1; place <= 9; place++) {
    const button = document.createElement('button');
    button.textContent = place;
    button.onclick = (event) => send({ do: event.shiftKey ? 'save' : 'load', place });
    $('places').append(button);
  }
  recall();
  legend();
}

intake((name) => {
  $('gallery').prepend(picture(name, 'your picture'));
  start(name);
}, start);
const setup = await (await fetch(`setup?${query()}`)).json();
if (setup.error) say(setup.error, true);
else { prepare(setup); connect(heed, arrive); }
