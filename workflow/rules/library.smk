# Needs: the source of these rules: a folder, or a commit in a Git repository that Snakemake reads or has cloned.
# Provides: LIBRARY, the folder of the Python package speechmill.
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from snakemake.exceptions import WorkflowError
from snakemake.sourcecache import HostingProviderFile, LocalGitFile, LocalSourceFile


def library(rules):
    """Return the folder above that of the rules; where they are in Git, export their commit to .snakemake."""
    if isinstance(rules, LocalSourceFile):
        return Path(rules.path).parent
    if isinstance(rules, HostingProviderFile):
        repository = rules.hosted_repo.repo
    elif isinstance(rules, LocalGitFile):
        import git

        repository = git.Repo(rules.repo_path)
    else:
        raise WorkflowError(
            f"speechmill cannot be used from {rules}, since it is more than its Snakefile: clone its repository, and"
            ' give `snakefile:` the path of workflow/Snakefile in it; or name the repository with github("…")'
        )
    commit = repository.commit(rules.ref).hexsha
    exported = Path(".snakemake/speechmill", commit).absolute()
    if not exported.exists():
        exported.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=exported.parent) as temporary:
            archive = Path(temporary, "speechmill.tar")
            repository.git.archive(commit, "workflow", "envs", output=archive)
            with tarfile.open(archive) as file:
                file.extractall(Path(temporary, commit), filter="data")
            Path(temporary, commit).rename(exported)
    return exported / "workflow"


LIBRARY = library(workflow.current_basedir).as_posix()
sys.path.insert(0, LIBRARY)
