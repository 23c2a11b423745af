"""An exported folder to the Hub."""

from __future__ import annotations

from pathlib import Path

from lit_bert import UserError


def check_name(repo_id: str) -> None:
    """Raises a UserError where no model on the Hub can be called so."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--push {repo_id}: {error}") from None
    if "/" not in repo_id:
        raise UserError(f"--push {repo_id} names no owner; expected OWNER/NAME.")


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Uploads the folder as one commit. Returns its address.

    Raises:
        UserError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    again = f"The folder {folder} is whole; push it again with `hf upload {repo_id} {folder}`."
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Exported by lit_bert")
        )
    except LocalTokenNotFoundError:
        raise UserError(f"the Hub wants to know who you are; run `hf auth login`. {again}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        hint = " Run `hf auth login` with a token that may write." if status in (401, 403) else ""
        raise UserError(f"the Hub refuses {repo_id} with status {status}.{hint} {again}") from None
    except ValueError as error:  # of the card, such as a licence that the Hub does not know
        raise UserError(f"the Hub refuses {repo_id}: {str(error)[:200]} {again}") from None
    except Exception as error:  # of the HTTP library that the client happens to use
        raise UserError(f"the Hub cannot be reached ({type(error).__name__}). {again}") from None
