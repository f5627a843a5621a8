// Pictures and games in: drop, paste, file, camera. Games and films out.
import { $, game, query, say } from './link.js';

// Pictures go to show(name), saved games to replay(name).
export function intake(show, replay) {
  async function upload(file) {
    const kind = file.name?.endsWith('.gamegen') ? 'recording' : 'picture', most = game.setup.max_upload;
    if (file.size > most) return say(`That file has ${(file.size / 2 ** 20).toFixed(0)} MiB; at most ${most / 2 ** 20} are taken.`, true);
    say('One moment …');
    try {
      const answer = await (await fetch(`${kind}?${query()}`, { method: 'POST', body: file })).json();
      if (answer.error) say(answer.error, true);
      else (kind === 'picture' ? show : replay)(answer.name);
    } catch (error) { say(`It could not be sent: ${error.message}`, true); }
  }
  addEventListener('dragover', (event) => { event.preventDefault(); $('drop').hidden = false; });
  addEventListener('dragleave', (event) => { if (!event.relatedTarget) $('drop').hidden = true; });
  addEventListener('drop', (event) => { event.preventDefault(); $('drop').hidden = true; if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]); else say('Drop a file: a picture, or a saved game.', true); });
  addEventListener('paste', (event) => { const file = event.clipboardData.files[0]; if (file) upload(file); });
  $('file').onchange = ({ target }) => { if (target.files[0]) upload(target.files[0]); target.value = ''; };

  $('camera').hidden = !navigator.mediaDevices?.getUserMedia;
  let camera = null;
  $('camera').onclick = async () => {
    try {
      camera = await navigator.mediaDevices.getUserMedia({ video: { width: 480, height: 480 } });
      $('video').srcObject = camera;
      $('snapshot').showModal();
    } catch (error) { say(`No camera: ${error.message}`, true); }
  };
  $('snapshot').onclose = () => camera?.getTracks().forEach((track) => track.stop());
  $('cancel').onclick = () => $('snapshot').close();
  $('shoot').onclick = () => {
    const canvas = document.createElement('canvas'), video = $('video');
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext('2d').drawImage(video, 0, 0);
    canvas.toBlob(upload, 'image/png');
    $('snapshot').close();
  };
}

export async function save(path, name, extra = {}) {
  say('One moment …');
  const answer = await fetch(`${path}?${query(extra)}`);
  if (!answer.ok) return say((await answer.json()).error, true);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`${name} is saved.`);
}
