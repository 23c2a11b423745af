# Every verb; runs go into /work/checkpoints:
#   docker build --file docker/train.Dockerfile --tag lit_bert .
#   docker run --gpus all --volume "$PWD:/work" --user "$(id -u)" lit_bert fit --data.dataset reviews.csv
# For a machine without a GPU, add --build-arg INDEX=https://download.pytorch.org/whl/cpu and gigabytes are saved.
FROM python:3.11-slim
ARG INDEX=https://pypi.org/simple
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --extra-index-url "$INDEX" --constraint constraints.txt '.[offline,report,export,serve,trackers]'
ENV HOME=/tmp LIT_BERT_CACHE=/work/.cache/lit_bert HF_HOME=/work/.cache/huggingface
WORKDIR /work
USER 10001
ENTRYPOINT ["python", "-m", "lit_bert"]
CMD ["--help"]
