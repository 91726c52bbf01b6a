"""Record a person: each episode is saved as it ends, and can be discarded or taken back."""

from envs.recording import Discard, Quit, Undo
from recording.dataset import Dataset
from recording.episodes import RecordingEnv, record_episodes
from recording.schema import RecordedEpisode


def record_human(dataset: Dataset, episodes: int) -> bool:
    """Let a person play until there are `episodes`.

    Returns:
        False if the person quit before.

    Raises:
        UserError: no person can play here, or the disk is full.
    """
    env = RecordingEnv(1, dataset.notes.recipe)
    human = dataset.task.recording.human_policy(env.env, env.stop, episodes)
    try:
        while dataset.episodes < episodes:
            human.saved = dataset.episodes
            try:
                (episode,) = record_episodes(env, human, [dataset.notes.next_seed], rests=False)
                if not episode.success:
                    human.decide()
                _save(dataset, episode)
            except Discard:
                _skip(dataset)
            except Undo:
                if dataset.episodes:
                    dataset.drop_last()
    except Quit:
        return False
    finally:
        human.close()
    return True


def _save(dataset: Dataset, episode: RecordedEpisode) -> None:
    if not episode.accepted:
        print(f"seed {episode.seed}: not saved, its {dataset.task.progress_name} is too small")
        _skip(dataset)
        return
    dataset.append([episode], dataset.notes.after(1, int(episode.success), next_seed=episode.seed + 1))


def _skip(dataset: Dataset) -> None:
    """Continue from the next start; the notes are saved with the next episode."""
    dataset.notes = dataset.notes.after(1, 0, next_seed=dataset.notes.next_seed + 1)
